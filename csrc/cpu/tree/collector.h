// A collection of the links that could be in the tree, in bounded memory: when there are too many,
// those that cannot be in the tree are dropped.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "cpu/tree/forest.h"
#include "cpu/tree/tree.h"

namespace tsloss {

// A link that carries its exact key as an edge, beside its fast key.
template <class T>
struct ExactLink : Edge<double> {
  T key;
  operator Link<T>() const { return {key, static_cast<int32_t>(i), static_cast<int32_t>(j)}; }
};

template <class T, class Exact>
std::vector<ExactLink<T>> with_exact_keys(const std::vector<Link<T>>& links, const Exact& exact) {
  std::vector<ExactLink<T>> out;
  out.reserve(links.size());
  for (const Link<T>& l : links) out.push_back({{exact(l.i, l.j), l.i, l.j}, l.key});
  return out;
}

// Number of links at which a collection is reduced: less than half the memory of the points, or 4
// links a point.
inline size_t collector_limit(int64_t n, int64_t dim) {
  return static_cast<size_t>(n * std::max<int64_t>(4, dim / 8) + 4096);
}

template <class T>
class Collector {
 public:
  // `exact(i, j)` returns the exact key of a pair. A band of 1 means that keys are exact already.
  template <class Exact>
  Collector(int64_t n, int64_t dim, T band, Exact exact)
      : n_(n), band_(band), limit_(collector_limit(n, dim)), sets_(0), exact_(exact) {}

  void add(const Link<T>& link) {
    links_.push_back(link);
    if (links_.size() >= limit_) compact();
  }

  const std::vector<Link<T>>& links() const { return links_; }

 private:
  void compact() {
    if (band_ == 1) return keep_exact_forest(links_, sets_, n_);
    sort_by_key(links_, scratch_);
    keep_contenders(links_, sets_, n_, band_);
    // Many links are tied within the band, and only exact keys can decide between them.
    if (links_.size() > limit_ / 2) decide();
    scratch_.clear();
  }

  void decide() {
    std::vector<ExactLink<T>> exact = with_exact_keys(links_, exact_);
    keep_exact_forest(exact, sets_, n_);
    links_.assign(exact.begin(), exact.end());
  }

  int64_t n_;
  T band_;
  size_t limit_;
  UnionFind sets_;
  std::function<double(int32_t, int32_t)> exact_;
  std::vector<Link<T>> links_;
  std::vector<Link<T>> scratch_;
};

}  // namespace tsloss
