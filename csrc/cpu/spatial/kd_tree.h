// A balanced k-d tree (Bentley, 1975) over points of D coordinates in double.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "cpu/kernels/kernels.h"
#include "cpu/runtime/buffer.h"
#include "cpu/runtime/monitor.h"
#include "cpu/runtime/thread_pool.h"

namespace tsloss {

template <int D>
struct SpatialPoint {
  double x[D];
  int32_t id;  // the number of the point in its cloud
};

template <int D>
struct Box {
  double low[D], high[D];

  static Box empty() {
    Box box;
    std::fill_n(box.low, D, std::numeric_limits<double>::infinity());
    std::fill_n(box.high, D, -std::numeric_limits<double>::infinity());
    return box;
  }

  void add(int d, double x) {
    low[d] = x < low[d] ? x : low[d];
    high[d] = x > high[d] ? x : high[d];
  }
};

// Leaf l holds the points at the places from l * kLeafPoints on, and every leaf but the last is
// full. Nodes are numbered as in a heap: the root is 1, the children of v are 2 v and 2 v + 1, and
// leaf l is first_leaf() + l. Leaves without points, at the end, have empty boxes.
template <int D>
class KdTree {
 public:
  // Reorders `points`.
  void build(SpatialPoint<D>* points, int64_t count, int threads) {
    count_ = count;
    leaves_ = (count + kLeafPoints - 1) / kLeafPoints;
    levels_ = 0;
    while ((int64_t{1} << levels_) < leaves_) ++levels_;
    x_.reserve(leaves_, kLeafPoints * D);
    tag_.reserve(leaves_, kLeafPoints);
    box_.reserve(2 * first_leaf());
    // The first levels one by one, each by all threads; then subtrees, of which each stays in a
    // cache.
    const int shared = std::min(levels_, kSharedLevels);
    Monitor::Part part(0, 0);
    for (int level = 0; level < shared; ++level) {
      part.set_range(double(level) / (levels_ + 1), double(level + 1) / (levels_ + 1));
      const int64_t first = int64_t{1} << level;
      parallel_for(first, threads, [&](int64_t task, int) { split(points, first + task, level); });
    }
    part.set_range(double(shared) / (levels_ + 1), 1);
    parallel_for(int64_t{1} << shared, threads, [&](int64_t task, int) {
      for (int level = shared; level < levels_; ++level) {
        const int64_t width = int64_t{1} << (level - shared);
        const int64_t first = (int64_t{1} << level) + task * width;
        for (int64_t node = first; node < first + width; ++node) split(points, node, level);
      }
      const int64_t width = int64_t{1} << (levels_ - shared);
      for (int64_t leaf = task * width; leaf < (task + 1) * width; ++leaf) fill(points, leaf);
    });
  }

  int64_t count() const { return count_; }
  int64_t leaves() const { return leaves_; }
  int64_t first_leaf() const { return int64_t{1} << levels_; }
  int64_t points_of(int64_t leaf) const {
    return std::min(kLeafPoints, count_ - leaf * kLeafPoints);
  }

  const Box<D>& box(int64_t node) const { return box_.data()[node]; }
  int32_t id(int64_t place) const { return static_cast<int32_t>(tags()[place] >> 32); }
  // The number of a point in its cloud, and its place in the lower half.
  const int64_t* tags() const { return tag_.data(); }
  // kLeafPoints first coordinates of the leaf's points, then as many second ones, and so on. Those
  // of places without a point, in the last leaf, are infinite.
  const double* coordinates(int64_t leaf) const { return x_.data() + leaf * kLeafPoints * D; }
  double coordinate(int64_t place, int d) const {
    return coordinates(place / kLeafPoints)[d * kLeafPoints + place % kLeafPoints];
  }

 private:
  static constexpr int kSharedLevels = 6;

  // The places of the points below a node.
  int64_t begin_of(int64_t node, int level) const {
    const int64_t leaf = (node - (int64_t{1} << level)) << (levels_ - level);
    return std::min(count_, leaf * kLeafPoints);
  }

  // Halves the points of an inner node across the longest side of their box.
  void split(SpatialPoint<D>* points, int64_t node, int level) {
    SpatialPoint<D>* begin = points + begin_of(node, level);
    SpatialPoint<D>* middle = points + begin_of(2 * node + 1, level + 1);
    SpatialPoint<D>* end = points + begin_of(node + 1, level);
    Box<D> box = Box<D>::empty();
    for (const SpatialPoint<D>* p = begin; p < end; ++p) {
      for (int d = 0; d < D; ++d) box.add(d, p->x[d]);
    }
    box_.data()[node] = box;
    if (middle == end) return;
    int widest = 0;
    for (int d = 1; d < D; ++d) {
      if (box.high[d] - box.low[d] > box.high[widest] - box.low[widest]) widest = d;
    }
    std::nth_element(begin, middle, end,
                     [widest](const SpatialPoint<D>& a, const SpatialPoint<D>& b) {
                       return a.x[widest] < b.x[widest];
                     });
  }

  void fill(const SpatialPoint<D>* points, int64_t leaf) {
    Box<D>& box = box_.data()[first_leaf() + leaf];
    box = Box<D>::empty();
    if (leaf >= leaves_) return;
    double* x = x_.data() + leaf * kLeafPoints * D;
    for (int64_t lane = 0; lane < kLeafPoints; ++lane) {
      const int64_t place = leaf * kLeafPoints + lane;
      const bool valid = place < count_;
      tag_.data()[place] = (valid ? int64_t{points[place].id} << 32 : 0) | place;
      for (int d = 0; d < D; ++d) {
        x[d * kLeafPoints + lane] =
            valid ? points[place].x[d] : std::numeric_limits<double>::infinity();
        if (valid) box.add(d, points[place].x[d]);
      }
    }
  }

  int64_t count_ = 0;
  int64_t leaves_ = 0;
  int levels_ = 0;
  Buffer<double> x_;
  Buffer<int64_t> tag_;
  Buffer<Box<D>> box_;
};

}  // namespace tsloss
