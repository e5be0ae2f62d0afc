// The exact minimum spanning tree of a large cloud without N^2 memory; see ../README.md.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "cpu/large/filter_context.h"
#include "cpu/tree/tree.h"

namespace tsloss {

template <class T>
struct LargeCloud {
  int64_t n;
  int64_t dim;
  Term term;
  // The points, aligned and padded, if the filter works on codes. Otherwise `data` is null and
  // `load` gives one point at a time, since padding would multiply the memory of a low dimension.
  Rows<T> rows;
  // Writes point i, padded with zeros to a multiple of kLanes, to an aligned row. Returns the
  // problem of its coordinates, if there is one.
  std::function<Problem(int64_t i, T* row)> load;
};

template <class T>
using LargeScratch = typename PackedRows<T>::Scratch;

struct LargeResult {
  // The tree is missing if there is a bad point, or if one of the flags is false.
  Finding finding;       // the first bad point
  bool in_range = true;  // squares stay in the range of T
  // False if the filter would let nearly all pairs pass, and N^2 keys take little more memory than
  // the points, so that the dense path is faster.
  bool filters = true;
  std::vector<Edge<double>> tree;  // exact keys, in no order
};

template <class T>
LargeResult large_tree(const LargeCloud<T>& cloud, int threads, LargeScratch<T>& scratch);

}  // namespace tsloss
