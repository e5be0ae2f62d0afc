// Links that could be in the tree, kept within bounds: when there are too many, those that cannot
// win are thrown out.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "cpu/forest.h"
#include "cpu/tree.h"

namespace tsloss {

template <class T>
class Collector {
 public:
  // `exact(i, j)` gives the key that decides; a band of 1 says that keys are exact already.
  template <class Exact>
  Collector(int64_t n, T band, Exact exact)
      : n_(n), band_(band), limit_(static_cast<size_t>(4 * n + 4096)), sets_(0), exact_(exact) {}

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
    // Ties in masses: only exact keys can tell them apart.
    if (links_.size() > limit_ / 2) decide();
    scratch_.clear();
  }

  void decide() {
    struct Decided : Edge<double> {
      T key;
    };
    std::vector<Decided> decided;
    decided.reserve(links_.size());
    for (const Link<T>& l : links_) decided.push_back({{exact_(l.i, l.j), l.i, l.j}, l.key});
    keep_exact_forest(decided, sets_, n_);
    links_.clear();
    for (const Decided& d : decided) {
      links_.push_back({d.key, static_cast<int32_t>(d.i), static_cast<int32_t>(d.j)});
    }
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
