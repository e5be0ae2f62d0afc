// The exact minimum spanning tree of a cloud in one to four dimensions without N^2 work: a k-d tree
// and Boruvka's algorithm; see ../../README.md.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/tree/tree.h"
#include "tsloss.h"

namespace tsloss {

constexpr int64_t kSpatialDimension = 4;  // the highest for which the code exists

struct SpatialResult {
  Finding finding;  // the first bad point, if any; the tree is then missing
  // False if a squared key of the tree is outside the range of T: then the tree is that of
  // prim_robust, and its edges carry robust lengths instead of keys.
  bool in_range = true;
  std::vector<Edge<double>> tree;  // in no order
};

// Reads every point once, so the result is a tree even if the points change during the call.
template <class T>
SpatialResult spatial_tree(const T* points, int64_t n, int64_t dim, Term term, int threads);

}  // namespace tsloss
