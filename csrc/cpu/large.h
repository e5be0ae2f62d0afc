// The exact minimum spanning tree of a large cloud without N^2 memory; see ../README.md.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "cpu/tree.h"

namespace tsloss {

template <class T>
struct LargeCloud {
  int64_t n;
  int64_t dim;
  Term term;
  // Writes point i, padded with zeros to a multiple of kLanes, to an aligned row. Returns what is
  // wrong with it.
  std::function<Problem(int64_t i, T* row)> load;
};

struct LargeResult {
  Finding finding;              // the first bad point, if any; then there is no tree
  bool in_range = true;         // false: squares left the range of T; then there is no tree
  std::vector<Edge<double>> tree;  // exact keys, in no order
};

template <class T>
LargeResult large_tree(const LargeCloud<T>& cloud, int threads);

}  // namespace tsloss
