// Boruvka's algorithm (1926) on the leaves of a k-d tree; see ../../README.md.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "cpu/runtime/buffer.h"
#include "cpu/runtime/monitor.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/spatial/exact_keys.h"
#include "cpu/spatial/kd_tree.h"
#include "cpu/tree/tree.h"
#include "cpu/tree/union_find.h"

namespace tsloss {

// The minimum spanning tree of different points by the exact keys of a measure.
template <int D, class Measure>
class Boruvka {
 public:
  Boruvka(const KdTree<D>& points, int threads) : points_(points), threads_(threads) {
    const int64_t m = points.count(), room = points.leaves() * kLeafPoints;
    near_.reserve(m, kNear);
    next_.reserve(m);
    component_.reserve(room);
    nearest_.reserve(m);
    bound_.reserve(m);
    sole_.reserve(2 * points.first_leaf());
  }

  // Adds the edges of the minimum spanning tree, with numbers of points in the cloud.
  void run(std::vector<Edge<double>>& tree) {
    Monitor::Part part(0, 0.5);
    for_each_leaf(0, 1, [&](int64_t leaf) { find_near(leaf); });
    const int64_t m = points_.count();
    std::iota(component_.data(), component_.data() + m, 0);
    std::fill(component_.data() + m, component_.data() + points_.leaves() * kLeafPoints, kNone);
    std::vector<std::atomic<double>> best(static_cast<size_t>(m));
    best_ = best.data();
    size_.assign(static_cast<size_t>(m), 1);
    for (double left = 0.5; size_.size() > 1; left /= 2) {
      part.set_range(1 - left, 1 - left / 2);
      if (!round(tree)) return join_by_infinite_edges(tree);
    }
  }

 private:
  static constexpr double kMost = std::numeric_limits<double>::max();
  static constexpr double kInf = std::numeric_limits<double>::infinity();
  static constexpr int64_t kGrain = 32;  // leaves of a task
  static constexpr int kLeaf = static_cast<int>(kLeafPoints);
  static constexpr int32_t kNone = -1;   // no point, or no component
  static constexpr int32_t kMixed = -2;  // several components

  // The calls of `f` are from `begin` to `end` of the work of the current part, for the progress.
  template <class F>
  void for_each_leaf(double begin, double end, const F& f) {
    Monitor::Part part(begin, end);
    const int64_t leaves = points_.leaves();
    parallel_for((leaves + kGrain - 1) / kGrain, threads_, [&](int64_t task, int) {
      const int64_t last = std::min(leaves, (task + 1) * kGrain);
      for (int64_t leaf = task * kGrain; leaf < last; ++leaf) f(leaf);
    });
  }

  // ---- keys and bounds ----

  double key(int64_t p, int64_t q) const {
    double d[D];
    for (int k = 0; k < D; ++k) d[k] = points_.coordinate(p, k) - points_.coordinate(q, k);
    return Measure::of(d);
  }

  static double bound_between(const Box<D>& a, const Box<D>& b) {
    double gap[D];
    for (int k = 0; k < D; ++k) {
      gap[k] = std::max(std::max(a.low[k] - b.high[k], b.low[k] - a.high[k]), 0.0);
    }
    return Measure::of(gap);
  }

  // Some points of one leaf, and their box.
  struct Group {
    int64_t leaf;
    Box<D> box;
    LeafSearch search;
  };

  Group group_of(int64_t leaf, uint32_t lanes) const {
    Group group{leaf, Box<D>::empty(), {points_.coordinates(leaf), {}, 0, {}, lanes, false}};
    for (; lanes; lanes &= lanes - 1) {
      for (int k = 0; k < D; ++k) {
        group.box.add(k, points_.coordinate(leaf * kLeaf + __builtin_ctz(lanes), k));
      }
    }
    std::copy_n(group.box.low, D, group.search.box);
    std::copy_n(group.box.high, D, group.search.box + D);
    return group;
  }

  // Compares the group with the points `among` those of a leaf.
  template <int kCount>
  uint32_t compare(Group& group, int64_t leaf, uint32_t among, double radius,
                   NearPoints<kCount>& near) const {
    group.search.own = leaf == group.leaf;
    return Measure::near(group.search, points_.coordinates(leaf), points_.tags() + leaf * kLeaf,
                         among, radius, near);
  }

  // All points of a leaf.
  uint32_t lanes_of(int64_t leaf) const { return (uint32_t{1} << points_.points_of(leaf)) - 1; }

  // Calls visit(leaf) for all leaves that may have a point within radius() of the group, but for
  // its own: nearer ones first, more or less. Those of component `own` alone are left out. A bound
  // equal to the radius rules nothing out, since a point behind it may win by its number.
  template <class Radius, class Visit>
  void search(const Group& group, int32_t own, const Radius& radius, const Visit& visit) const {
    for (int64_t node = points_.first_leaf() + group.leaf; node > 1; node /= 2) {
      descend(node ^ 1, group.box, own, radius, visit);
    }
  }

  template <class Radius, class Visit>
  void descend(int64_t node, const Box<D>& box, int32_t own, const Radius& radius,
               const Visit& visit) const {
    struct Later {
      int64_t node;
      double bound;
    };
    Later stack[64];  // a node of each level
    int depth = 0;
    double bound = bound_between(box, points_.box(node));
    const int32_t* sole = sole_.data();
    for (;;) {
      while (bound <= radius() && (own == kNone || sole[node] != own)) {
        if (node >= points_.first_leaf()) {
          visit(node - points_.first_leaf());
          break;
        }
        int64_t near = 2 * node, far = near + 1;
        double far_bound = bound_between(box, points_.box(far));
        bound = bound_between(box, points_.box(near));
        if (far_bound < bound) {
          std::swap(near, far);
          std::swap(bound, far_bound);
        }
        if (far_bound <= radius()) stack[depth++] = {far, far_bound};
        node = near;
      }
      if (depth == 0) return;
      --depth;
      node = stack[depth].node;
      bound = stack[depth].bound;
    }
  }

  // ---- near points ----

  // The kNear nearest points of each point of a leaf, by (key, number).
  void find_near(int64_t leaf) {
    NearPoints<kNear> near(kMost);
    const uint32_t all = lanes_of(leaf);
    Group whole = group_of(leaf, all);
    compare(whole, leaf, all, kMost, near);
    const double* reach = near.keys[kNear - 1];
    const auto extreme = [&](uint32_t lanes, bool least) {
      double result = reach[__builtin_ctz(lanes)];
      for (; lanes; lanes &= lanes - 1) {
        const double x = reach[__builtin_ctz(lanes)];
        if (least ? x < result : x > result) result = x;
      }
      return result;
    };
    // Outliers, with a much longer reach than the other points of the leaf, search on their own.
    for (uint32_t left = all; left;) {
      const double limit = 16 * extreme(left, true);
      uint32_t chosen = 0;
      for (uint32_t lanes = left; lanes; lanes &= lanes - 1) {
        if (reach[__builtin_ctz(lanes)] <= limit) chosen |= lanes & -lanes;
      }
      left &= ~chosen;
      Group group = group_of(leaf, chosen);
      double radius = extreme(chosen, false);
      search(
          group, kNone, [&] { return radius; },
          [&](int64_t other) {
            if (compare(group, other, lanes_of(other), radius, near)) {
              radius = extreme(chosen, false);
            }
          });
    }
    for (uint32_t lanes = all; lanes; lanes &= lanes - 1) {
      const int lane = __builtin_ctz(lanes);
      const int64_t p = leaf * kLeaf + lane;
      for (int k = 0; k < kNear; ++k) {
        near_.data()[p * kNear + k] = place_of(near.tags[k][lane]);
      }
      next_.data()[p] = 0;
      nearest_.data()[p] = near_.data()[p * kNear];
      bound_.data()[p] = near.keys[0][lane];
    }
  }

  // No place for the tag of no point.
  static int32_t place_of(int64_t tag) {
    return tag == std::numeric_limits<int64_t>::max() ? kNone : static_cast<int32_t>(tag);
  }

  // ---- rounds ----

  // Each component but the largest gets its least edge to another one. False if there is none.
  bool round(std::vector<Edge<double>>& tree) {
    const size_t count = size_.size();
    for (size_t c = 0; c < count; ++c) best_[c].store(kMost, std::memory_order_relaxed);
    largest_ = static_cast<int32_t>(std::max_element(size_.begin(), size_.end()) - size_.begin());
    for_each_leaf(0, 0.4, [&](int64_t leaf) { look_at_near(leaf); });
    find_sole_components();
    for_each_leaf(0.4, 0.8, [&](int64_t leaf) { look_around(leaf); });
    return merge(tree);
  }

  void offer(int32_t component, double key) {
    std::atomic<double>& best = best_[component];
    double old = best.load(std::memory_order_relaxed);
    while (key < old && !best.compare_exchange_weak(old, key, std::memory_order_relaxed)) {
    }
  }

  // The nearest point of another component, where it is among the near ones.
  void look_at_near(int64_t leaf) {
    const int32_t* component = component_.data();
    const int64_t end = leaf * kLeaf + points_.points_of(leaf);
    for (int64_t p = leaf * kLeaf; p < end; ++p) {
      const int32_t own = component[p];
      if (own == largest_) continue;
      int32_t& nearest = nearest_.data()[p];
      if (nearest >= 0 && component[nearest] == own) {
        const int32_t* near = near_.data() + p * kNear;
        uint8_t& next = next_.data()[p];
        nearest = kNone;
        while (next < kNear && near[next] >= 0 && component[near[next]] == own) ++next;
        if (next < kNear) {
          nearest = near[next];
          bound_.data()[p] = nearest < 0 ? kInf : key(p, nearest);
        } else if (next == kNear) {
          bound_.data()[p] = std::max(bound_.data()[p], key(p, near[kNear - 1]));
          next = kNear + 1;
        }
      }
      if (nearest >= 0) offer(own, bound_.data()[p]);
    }
  }

  // For each node the component of all its points, if it is one.
  void find_sole_components() {
    int32_t* sole = sole_.data();
    const int64_t first = points_.first_leaf();
    for (int64_t leaf = 0; leaf < first; ++leaf) {
      sole[first + leaf] = kNone;
      if (leaf >= points_.leaves()) continue;
      const int32_t* component = component_.data() + leaf * kLeaf;
      const int64_t count = points_.points_of(leaf);
      bool same = true;
      for (int64_t lane = 1; lane < count; ++lane) same &= component[lane] == component[0];
      sole[first + leaf] = same ? component[0] : kMixed;
    }
    for (int64_t node = first - 1; node > 0; --node) {
      const int32_t a = sole[2 * node], b = sole[2 * node + 1];
      sole[node] = a == b || b == kNone ? a : kMixed;
    }
  }

  // The nearest point of another component for those that know none, but may have the least edge.
  void look_around(int64_t leaf) {
    const int32_t* component = component_.data() + leaf * kLeaf;
    uint32_t left = 0;
    for (int lane = 0; lane < points_.points_of(leaf); ++lane) {
      const int64_t p = leaf * kLeaf + lane;
      const int32_t own = component[lane];
      if (own == largest_ || nearest_.data()[p] >= 0) continue;
      if (bound_.data()[p] <= best_[own].load(std::memory_order_relaxed)) {
        left |= uint32_t{1} << lane;
      }
    }
    while (left) {
      const int32_t own = component[__builtin_ctz(left)];
      uint32_t chosen = 0;
      for (uint32_t lanes = left; lanes; lanes &= lanes - 1) {
        const int lane = __builtin_ctz(lanes);
        if (component[lane] == own) chosen |= uint32_t{1} << lane;
      }
      left &= ~chosen;
      look_around(group_of(leaf, chosen), own);
    }
  }

  void look_around(Group group, int32_t own) {
    const std::atomic<double>& best = best_[own];
    const auto radius = [&] { return best.load(std::memory_order_relaxed); };
    NearPoints<1> near(radius());
    const auto visit = [&](int64_t other) {
      uint32_t among = lanes_of(other);
      if (sole_.data()[points_.first_leaf() + other] == kMixed) {
        const int32_t* component = component_.data() + other * kLeaf;
        uint32_t others = 0;
        for (int lane = 0; lane < kLeaf; ++lane) others |= uint32_t(component[lane] != own) << lane;
        among &= others;
      }
      uint32_t changed = compare(group, other, among, radius(), near);
      for (; changed; changed &= changed - 1) offer(own, near.keys[0][__builtin_ctz(changed)]);
    };
    if (sole_.data()[points_.first_leaf() + group.leaf] == kMixed) visit(group.leaf);
    search(group, own, radius, visit);
    // All pairs whose keys are at most the best one have been looked at.
    const double reached = radius();
    for (uint32_t lanes = group.search.lanes; lanes; lanes &= lanes - 1) {
      const int lane = __builtin_ctz(lanes);
      const int64_t p = group.leaf * kLeaf + lane;
      const bool found = place_of(near.tags[0][lane]) >= 0 && near.keys[0][lane] <= reached;
      nearest_.data()[p] = found ? place_of(near.tags[0][lane]) : kNone;
      bound_.data()[p] = found ? near.keys[0][lane] : std::nextafter(reached, kInf);
    }
  }

  Edge<double> edge(int64_t p) const {
    const int64_t i = points_.id(p), j = points_.id(nearest_.data()[p]);
    return {bound_.data()[p], std::min(i, j), std::max(i, j)};
  }

  bool merge(std::vector<Edge<double>>& tree) {
    const size_t count = size_.size();
    const int64_t m = points_.count();
    std::vector<int32_t> winner(count, kNone);
    int32_t* component = component_.data();
    for (int64_t p = 0; p < m; ++p) {
      if (nearest_.data()[p] < 0) continue;
      const int32_t c = component[p];
      if (c == largest_) continue;
      if (bound_.data()[p] != best_[c].load(std::memory_order_relaxed)) continue;
      if (winner[c] < 0 || edge(p) < edge(winner[c])) winner[c] = static_cast<int32_t>(p);
    }
    UnionFind sets(static_cast<int64_t>(count));
    bool merged = false;
    for (size_t c = 0; c < count; ++c) {
      const int32_t p = winner[c];
      if (p < 0) continue;
      const int64_t a = sets.find(component[p]), b = sets.find(component[nearest_.data()[p]]);
      if (a == b) continue;  // the other component has chosen this edge, too
      sets.unite(a, b);
      tree.push_back(edge(p));
      merged = true;
    }
    if (!merged) return false;
    std::vector<int32_t> number(count, kNone);
    std::vector<int64_t> size;
    for (size_t c = 0; c < count; ++c) {
      int32_t& root = number[sets.find(static_cast<int64_t>(c))];
      if (root < 0) {
        root = static_cast<int32_t>(size.size());
        size.push_back(0);
      }
      size[root] += size_[c];
    }
    std::vector<int32_t>& renamed = winner;
    for (size_t c = 0; c < count; ++c) {
      renamed[c] = number[sets.find(static_cast<int64_t>(c))];
    }
    size_ = std::move(size);
    for_each_leaf(0.8, 1, [&](int64_t leaf) {
      for (int64_t p = leaf * kLeaf; p < leaf * kLeaf + points_.points_of(leaf); ++p) {
        component[p] = renamed[component[p]];
      }
    });
    return true;
  }

  // Where all keys between components are infinite, the least edges are those from the first point
  // of the cloud to the first of each component without it.
  void join_by_infinite_edges(std::vector<Edge<double>>& tree) {
    std::vector<int32_t> first(size_.size(), std::numeric_limits<int32_t>::max());
    for (int64_t p = 0; p < points_.count(); ++p) {
      int32_t& least = first[component_.data()[p]];
      least = std::min(least, points_.id(p));
    }
    for (const int32_t id : first) {
      if (id > 0) tree.push_back({kInf, 0, id});
    }
  }

  const KdTree<D>& points_;
  const int threads_;
  // For each place: the near ones, how many of them are known to be in the same component, the
  // component, the nearest point of another one if it is known, and a bound below which there is
  // no such point (its key, if it is known).
  Buffer<int32_t> near_;
  Buffer<uint8_t> next_;
  Buffer<int32_t> component_;
  Buffer<int32_t> nearest_;
  Buffer<double> bound_;
  Buffer<int32_t> sole_;  // of each node
  // For each component: the least key to another one that is known, and the number of points.
  std::atomic<double>* best_ = nullptr;
  std::vector<int64_t> size_;
  int32_t largest_ = 0;
};

}  // namespace tsloss
