// Minimum spanning trees of one cloud. Among equal lengths the edge with the smaller (smaller
// index, larger index) wins, so the tree is unique whatever the algorithm, the threads or the
// memory.
#pragma once

#include <cstdint>

#include "cpu/buffer.h"
#include "cpu/kernels.h"
#include "tsloss.h"

namespace tsloss {

template <class T>
struct Edge {
  T length;  // a key while the tree is built, the reported length at the end
  int64_t i;
  int64_t j;
};

template <class T>
bool operator<(const Edge<T>& a, const Edge<T>& b) {
  if (a.length != b.length) return a.length < b.length;
  return a.i != b.i ? a.i < b.i : a.j < b.j;
}

template <class T>
struct PrimScratch {
  Buffer<T> best;
  Buffer<T> dead;
  Buffer<int32_t> from;
};

// Up to here all keys of a cloud are kept, which costs N^2 numbers (600 MB in float32 at the limit)
// and lets every point be loaded once a tile; beyond it keys are computed as Prim asks for them.
constexpr int64_t kDenseLimit = 12288;

// Prim over a full symmetric matrix of keys: O(n^2). edges has n - 1 entries, in order of
// discovery. False if a tree edge is +inf (the tree is then not complete).
template <class T>
bool prim_dense(const T* keys, int64_t stride, int64_t n, PrimScratch<T>& scratch, Edge<T>* edges);

// The same tree in O(n) memory beyond `rows`, which is reordered: O(n^2 D) time.
template <class T>
bool prim_streaming(T* rows, int64_t stride, int64_t dim, int64_t n, Term term, int threads,
                    Edge<T>* edges);

// The same tree with lengths that neither overflow nor underflow, one pair at a time: for clouds
// whose squares leave the range of T. Edges carry lengths rather than squared keys, in double.
template <class T>
void prim_robust(const Rows<T>& rows, int64_t n, Term term, int threads, Edge<double>* edges);

// The length of one pair, computed as prim_robust does.
template <class T>
double robust_length(const T* x, const T* y, int64_t dim, Term term);

}  // namespace tsloss
