// Minimum spanning trees of one cloud. Among edges of equal length the one with the smaller
// (smaller index, larger index) wins. So the tree is unique, and depends neither on the algorithm
// nor on the number of threads.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>

#include "cpu/kernels/kernels.h"
#include "cpu/runtime/buffer.h"
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

inline Term term_of(Metric metric) {
  return metric == Metric::kManhattan ? Term::kAbsolute : Term::kSquared;
}

// The length of an edge under the metric. It is computed from the edge's key, or, if keys are not
// in range, from the result of robust_length.
inline double length_of(Metric metric, double key, bool in_range) {
  if (!in_range) return metric == Metric::kSqeuclidean ? key * key : key;
  if (metric == Metric::kEuclidean) return std::sqrt(key);
  if (metric == Metric::kCosine) return 0.5 * key;  // 1 - cos of unit vectors
  return key;
}

template <class T>
struct PrimScratch {
  Buffer<T> best;
  Buffer<T> bottleneck;
  Buffer<Index<T>> from;
  Buffer<int32_t> found;
};

enum class Prim {
  kIncomplete,  // `look` returned false, or there are negative keys; the edges are undefined
  kInfinite,    // a tree edge is infinite, or has a key that is NaN
  kCertain,     // exact keys give the same tree as these, which lie within the band of them
  kContested,   // edges outside the tree lie within the band, and exact keys must decide
};

// Prim's algorithm over a full symmetric matrix of keys, in O(n^2). `edges` gets n - 1 entries in
// order of discovery, from which the vertex that an edge adds and its height follow. A `band` of 1
// means that keys are exact.
// `look(u)` is called once for each row u, just before the row is read; if it returns false, the
// result is kIncomplete. The edges are a tree even if the keys are NaN or change meanwhile.
template <class T>
Prim prim_dense(const T* keys, int64_t stride, int64_t n, T band, PrimScratch<T>& scratch,
                Edge<T>* edges, const std::function<bool(int64_t u)>& look = {});

// Prim's algorithm one pair at a time, for clouds whose squares leave the range of T. Edges carry
// lengths in double, computed without overflow and underflow, instead of squared keys; or, if
// `by_keys`, exact keys, where a square that underflows counts as 0.
template <class T>
void prim_robust(const Rows<T>& rows, int64_t n, Term term, bool by_keys, int threads,
                 Edge<double>* edges);

// The length of one pair, computed as prim_robust does.
template <class T>
double robust_length(const T* x, const T* y, int64_t dim, Term term);

// The exact key of one pair of rows, or its robust_length.
template <class T>
double key_of(const T* x, const T* y, int64_t stride, Term term, bool robust) {
  if (robust) return robust_length(x, y, stride, term);
  return kernels<T>().refine(x, y, stride, term);
}

// How far fast keys may be from exact ones. If their relative error is eta = `units` units of
// rounding, a pair whose exact key is at most that of another has a fast key of at most
// (1 + eta) / (1 - eta) times the other's, which is below the band. Exact keys of double are
// themselves sums in double (of 16 lanes), and so have an error of their own.
template <class T>
T band_of(int64_t units, int64_t dim) {
  if (sizeof(T) == 8) units += dim / 16 + 8;
  return 1 + T(units + 4) * std::numeric_limits<T>::epsilon();
}

// Sums of `dim` squares that are below this limit may have lost digits to underflow.
template <class T>
T underflow_limit(int64_t dim) {
  const int exponent = sizeof(T) == 4 ? -110 : -960;
  return std::ldexp(static_cast<T>(dim > 1 ? dim : 1), exponent);
}

}  // namespace tsloss
