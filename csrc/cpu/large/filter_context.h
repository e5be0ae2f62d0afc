// Points in the order of a forest, and the state that the filters of all their tiles share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/large/packed_rows.h"
#include "cpu/runtime/buffer.h"
#include "cpu/tree/forest.h"

namespace tsloss {

// Points in the order of a forest: all different points of a cloud, or a block of them. Place p
// is the p-th of these points; its position counts all points of the cloud.
template <class T>
struct OrderedPoints {
  OrderedPoints(int64_t dim, typename PackedRows<T>::Scratch& scratch) : packed(dim, scratch) {}

  Rows<T> rows{};                 // `data` may be null if the filter works on coordinates
  std::vector<int32_t> order;     // by place: the index of its row
  std::vector<int32_t> position;  // by place, ascending
  // By place: the largest rank from the previous place's position (exclusive) to this one's.
  std::vector<int32_t> rank;
  PackedRows<T> packed;  // by place

  int64_t size() const { return static_cast<int64_t>(order.size()); }
  const T* row(int64_t place) const { return rows[order[place]]; }
};

// The state that all tiles of a cloud share: how its pairs are measured, and the forest that bounds
// them.
template <class T>
struct FilterContext {
  FilterContext(int64_t dim, Term term, bool coded, int threads)
      : dim(dim),
        stride(round_up(std::max<int64_t>(dim, 1), kLanes)),
        term(term),
        threads(threads),
        table(kernels<T>()),
        coded(coded) {}

  const int64_t dim;
  const int64_t stride;  // numbers in a padded row
  const Term term;
  const int threads;
  const Kernels<T>& table;
  bool coded;            // the filter works on codes, otherwise on coordinates
  bool robust = false;   // squares leave the range of T, so no test rules a pair out
  bool lattice = false;  // fast keys are exact; see is_lattice_row
  T largest = 0;         // the largest |coordinate| of all points
  CentredScaling<T> scaling;

  // The rank of a forest's edge is its place in ascending order. A pair can only be in the minimum
  // spanning tree if its key is at most the height of the largest rank between its positions, which
  // is that of the longest edge on the forest's path between its points.
  std::vector<int32_t> rank;         // by position; see merge_order
  std::vector<T> height;             // by rank: the key, times the band of fast keys
  std::vector<float> scaled_height;  // by rank: the height in the units of the codes

  // Orders n points by a forest, whose edges are ascending: order[p] is the point at position p.
  // height_of(edge) is an upper bound of the fast keys of pairs that the edge does not rule out.
  template <class E, class Height>
  void set_forest(const std::vector<E>& forest, int64_t n, const Height& height_of,
                  std::vector<int32_t>& order) {
    UnionFind sets(0);
    merge_order(forest, sets, n, order, rank);
    height.resize(forest.size());
    std::transform(forest.begin(), forest.end(), height.begin(), height_of);
    scaled_height.clear();  // pack() fills it
  }

  // The rank of the longest edge on the forest's path between two positions, from < to.
  int32_t largest_rank(int64_t from, int64_t to) const {
    return *std::max_element(rank.begin() + from + 1, rank.begin() + to + 1);
  }

  // Packs the points in their order, and scales the heights for the codes. load(p, x) writes the
  // point at place p to an aligned and padded row; it is called if the filter works on coordinates.
  template <class Load>
  void pack(OrderedPoints<T>& points, const Load& load) {
    const int64_t count = points.size();
    if (!coded) return points.packed.pack(count, threads, load);
    const auto row = [&](int64_t p) { return points.row(p); };
    // The first 256 points of the first call stand for all: any centre is right, a mean is better.
    if (!scaling.chosen()) scaling.choose(std::min<int64_t>(count, 256), stride, largest, row);
    points.packed.encode(count, scaling, threads, row);
    if (scaled_height.size() == height.size()) return;
    scaled_height.resize(height.size());
    std::transform(height.begin(), height.end(), scaled_height.begin(),
                   [&](T h) { return scaling.bound(h); });
  }
};

}  // namespace tsloss
