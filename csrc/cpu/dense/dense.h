// The exact minimum spanning tree by way of the N x N matrix of keys: for clouds of a few hundred
// points.
#pragma once

#include <vector>

#include "cpu/tree/tree.h"

namespace tsloss {

template <class T>
struct DenseScratch {
  Buffer<T> keys;
  Buffer<T> panels;
  PrimScratch<T> prim;
  std::vector<Edge<T>> edges;
};

// Compute all keys: by tiles that are vectorised over the dimension, or by packed panels that are
// vectorised over points.
template <class T>
void keys_by_rows(const Rows<T>& rows, int64_t n, Term term, int threads, T* keys, int64_t stride);
template <class T>
void keys_by_panels(const Rows<T>& rows, int64_t n, int64_t dim, Term term, int threads,
                    Buffer<T>& panels, T* keys, int64_t stride);

// Gives the tree with its exact keys, in no order. Returns false if a distance or its square is
// not finite.
template <class T>
bool dense_tree(const Rows<T>& rows, int64_t n, int64_t dim, Term term, bool packed, int threads,
                DenseScratch<T>& scratch, std::vector<Edge<double>>& tree);

}  // namespace tsloss
