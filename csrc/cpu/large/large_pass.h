// A pass of the filter over the tiles of a large cloud, and the forest that it filters by.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "cpu/large/large_points.h"
#include "cpu/large/tile_filter.h"
#include "cpu/tree/collector.h"

namespace tsloss {

// The best spanning tree so far: a pair that is longer than the longest edge of its path in this
// tree is not in the minimum one.
template <class T>
struct KnownForest {
  std::vector<Link<T>> links;       // ascending; they define the order of the points
  std::vector<Edge<double>> exact;  // the exact keys of the links, if ties need them

  // Orders the points by the forest, whose links are sorted by key. If `tied`, exact keys sort them
  // again, and decide between pairs within the band.
  void set(LargePoints<T>& points, const std::vector<Link<T>>& forest, bool tied) {
    links = forest;
    exact.clear();
    FilterContext<T>& context = points.context;
    if (tied && !context.lattice) {
      auto with_keys =
          with_exact_keys(forest, [&](int32_t i, int32_t j) { return points.exact_key(i, j); });
      std::sort(with_keys.begin(), with_keys.end());
      links.assign(with_keys.begin(), with_keys.end());
      exact.assign(with_keys.begin(), with_keys.end());
    }
    UnionFind sets(0);
    merge_order(links, sets, points.cloud.n, points.ordered.order, context.rank);
    context.height.resize(links.size());
    std::transform(links.begin(), links.end(), context.height.begin(),
                   [&](const Link<T>& l) { return l.key * points.band; });
    context.scaled_height.clear();
    points.gather();
    points.ordered.rank = context.rank;
    points.ordered.position.resize(context.rank.size());
    std::iota(points.ordered.position.begin(), points.ordered.position.end(), 0);
  }

  // Whether a link could be in the tree, if the longest edge of the forest between its ends has
  // this rank. Exact ties are decided here, since a cloud whose distances are all equal would keep
  // all its pairs otherwise.
  bool within(const LargePoints<T>& points, const Link<T>& l, int32_t rank) const {
    if (!(l.key <= points.context.height[rank])) return false;  // NaN is not within any bound
    if (points.context.lattice) return !(links[rank] < l);
    if (exact.empty() || l.key * points.band < links[rank].key) return true;
    return !(exact[rank] < Edge<double>{points.exact_key(l.i, l.j), l.i, l.j});
  }
};

// The sink of one thread's filter: the links that could be in the tree.
template <class T>
class LinkSink {
 public:
  LinkSink(const LargePoints<T>& points, const KnownForest<T>& known)
      : points_(points),
        known_(known),
        collector_(points.cloud.n, points.cloud.dim, points.band,
                   [&points](int32_t i, int32_t j) { return points.exact_key(i, j); }) {}

  const std::vector<Link<T>>& links() const { return collector_.links(); }

  void add(int64_t p, int64_t q, int32_t rank, T key) {
    const Link<T> l = points_.link(key, p, q);
    if (known_.within(points_, l, rank)) collector_.add(l);
  }

  void measure(const std::vector<Candidate>& candidates) {
    const std::vector<int32_t>& id = points_.ordered.order;
    pairs_.clear();
    for (const Candidate& c : candidates) pairs_.push_back({id[c.p], id[c.q]});
    keys_.resize(pairs_.size());
    points_.context.table.pairs(points_.cloud.rows, points_.cloud.term, pairs_.data(),
                                static_cast<int64_t>(pairs_.size()), keys_.data());
    for (size_t k = 0; k < candidates.size(); ++k) {
      add(candidates[k].p, candidates[k].q, candidates[k].rank, keys_[k]);
    }
  }

 private:
  const LargePoints<T>& points_;
  const KnownForest<T>& known_;
  Collector<T> collector_;
  std::vector<Pair> pairs_;
  std::vector<T> keys_;
};

}  // namespace tsloss
