// The different points of a large cloud, the keys of their pairs, and the forest that orders them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "cpu/large/filter_context.h"
#include "cpu/large/large.h"
#include "cpu/runtime/buffer.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/tree/collector.h"
#include "cpu/tree/forest.h"
#include "cpu/tree/tree.h"

namespace tsloss {

template <class T>
struct LargePoints {
  LargePoints(const LargeCloud<T>& cloud, int threads, LargeScratch<T>& scratch)
      : cloud(cloud),
        context(cloud.dim, cloud.term, cloud.rows.data != nullptr, threads),
        ordered(cloud.dim, scratch) {
    ordered.rows = cloud.rows;
  }

  const LargeCloud<T>& cloud;
  FilterContext<T> context;
  T band = 1;                // keys within this factor of each other may be in the wrong order
  OrderedPoints<T> ordered;  // the different points; places are positions

  int64_t size() const { return ordered.size(); }

  void choose_band() { band = band_of_filter<T>(context.coded, context.lattice, cloud.dim); }

  // The link between the points at two positions.
  Link<T> link(T key, int64_t p, int64_t q) const {
    const int32_t a = ordered.order[p], b = ordered.order[q];
    return {key, std::min(a, b), std::max(a, b)};
  }

  // Computes the keys of links from coordinates.
  void evaluate(std::vector<Link<T>>& links) {
    constexpr int64_t kGrain = 256;
    const int64_t count = static_cast<int64_t>(links.size());
    parallel_for((count + kGrain - 1) / kGrain, context.threads, [&](int64_t task, int) {
      const int64_t begin = task * kGrain, end = std::min(count, begin + kGrain);
      if (!context.coded) {
        for (int64_t k = begin; k < end; ++k) {
          links[k].key = static_cast<T>(exact_key(links[k].i, links[k].j));
        }
        return;
      }
      Pair pairs[kGrain] = {};
      T keys[kGrain];
      for (int64_t k = begin; k < end; ++k) {
        pairs[k - begin] = {links[k].i, links[k].j};
      }
      context.table.pairs(cloud.rows, cloud.term, pairs, end - begin, keys);
      constexpr T kInf = std::numeric_limits<T>::infinity();
      for (int64_t k = begin; k < end; ++k) {
        const T key = keys[k - begin];
        links[k].key = key >= 0 ? key : kInf;  // NaN becomes infinite, as in exact keys
      }
    });
  }

  // The key that decides: a sum in double, with the same bits on every path.
  double exact_key(int32_t i, int32_t j) const {
    const int64_t stride = context.stride;
    if (context.coded) {
      return context.table.refine(cloud.rows[i], cloud.rows[j], stride, cloud.term);
    }
    static thread_local Buffer<T> buffer;
    T* x = buffer.reserve(2 * stride);
    cloud.load(i, x);
    cloud.load(j, x + stride);
    return context.table.refine(x, x + stride, stride, cloud.term);
  }

  // Packs the points in their current order, as codes or as coordinates.
  void gather() {
    context.pack(ordered, [&](int64_t p, T* x) { cloud.load(ordered.order[p], x); });
  }
};

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
    const auto height_of = [&](const Link<T>& l) { return l.key * points.band; };
    context.set_forest(links, points.cloud.n, height_of, points.ordered.order);
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

}  // namespace tsloss
