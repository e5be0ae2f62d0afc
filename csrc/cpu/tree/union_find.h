// Disjoint sets with union by size and path halving, which take nearly constant time an operation
// (Tarjan, 1975).
#pragma once

#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

namespace tsloss {

class UnionFind {
 public:
  explicit UnionFind(int64_t n) { reset(n); }

  void reset(int64_t n) {
    size_.assign(static_cast<size_t>(n), 1);
    parent_.resize(static_cast<size_t>(n));
    std::iota(parent_.begin(), parent_.end(), int64_t{0});
  }

  int64_t find(int64_t v) {
    while (parent_[v] != v) {
      parent_[v] = parent_[parent_[v]];
      v = parent_[v];
    }
    return v;
  }

  // Merges the sets of two roots and returns the root of the result.
  int64_t unite(int64_t a, int64_t b) {
    if (size_[a] < size_[b]) std::swap(a, b);
    parent_[b] = a;
    size_[a] += size_[b];
    return a;
  }

  int64_t size(int64_t root) const { return size_[root]; }

 private:
  std::vector<int64_t> parent_;
  std::vector<int64_t> size_;
};

}  // namespace tsloss
