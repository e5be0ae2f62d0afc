// What fuzz.cpp chooses from: each makes calls of what the input says, and compares.
#pragma once

#include "fuzz_input.h"

namespace fuzz {

// Points -> bars -> gradient, on several ways.
template <class T>
void forward_and_backward(Input& in);

// Edges that someone has written to.
template <class T>
void backward_of_any_edges(Input& in);

// Fast keys, and the filter that must lose no pair.
template <class T>
void keys_and_filter(Input& in);

// Distance matrices, some of them no such thing.
template <class T>
void matrices(Input& in);

template <class T>
void loss(Input& in);

// Edges of trees and of others.
void linkage(Input& in);

// The tree of a cloud in several shards, against that of h0_forward.
template <class T>
void shards(Input& in);

}  // namespace fuzz
