// The points of a large cloud in an order, and the keys of their pairs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/large/large.h"
#include "cpu/large/packed_rows.h"
#include "cpu/runtime/buffer.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/tree/forest.h"
#include "cpu/tree/tree.h"

namespace tsloss {

template <class T>
struct LargePoints {
  LargePoints(const LargeCloud<T>& cloud, int threads, LargeScratch<T>& scratch)
      : cloud(cloud),
        threads(threads),
        stride(round_up(std::max<int64_t>(cloud.dim, 1), kLanes)),
        table(kernels<T>()),
        coded(cloud.rows.data != nullptr),
        packed(cloud.dim, scratch) {}

  const LargeCloud<T>& cloud;
  const int threads;
  const int64_t stride;
  const Kernels<T>& table;
  bool coded;                  // the filter works on codes
  T band = 1;                  // the order of keys within this factor of each other is not certain
  T largest = 0;               // the largest |coordinate|
  bool lattice = false;        // keys are exact
  int64_t m = 0;               // number of distinct points
  std::vector<int32_t> ids;    // numbers of the distinct points in the cloud, ascending
  std::vector<int32_t> order;  // by position: index into ids
  CentredScaling<T> scaling;
  PackedRows<T> packed;  // by position

  int32_t id(int64_t position) const { return ids[order[position]]; }
  const T* row(int64_t position) const { return cloud.rows[id(position)]; }

  void choose_band() { band = band_of_filter<T>(coded, lattice, cloud.dim); }

  Link<T> link(T key, int64_t p, int64_t q) const {
    const int32_t a = order[p], b = order[q];
    return {key, std::min(a, b), std::max(a, b)};
  }

  // Computes the keys of links from coordinates. The ends of a link are indices into ids.
  void evaluate(std::vector<Link<T>>& links) {
    constexpr int64_t kGrain = 256;
    const int64_t count = static_cast<int64_t>(links.size());
    parallel_for((count + kGrain - 1) / kGrain, threads, [&](int64_t task, int) {
      const int64_t begin = task * kGrain, end = std::min(count, begin + kGrain);
      if (!coded) {
        for (int64_t k = begin; k < end; ++k) {
          links[k].key = static_cast<T>(exact_key(links[k].i, links[k].j));
        }
        return;
      }
      Pair pairs[kGrain] = {};
      T keys[kGrain];
      for (int64_t k = begin; k < end; ++k) {
        pairs[k - begin] = {ids[links[k].i], ids[links[k].j]};
      }
      table.pairs(cloud.rows, cloud.term, pairs, end - begin, keys);
      constexpr T kInf = std::numeric_limits<T>::infinity();
      for (int64_t k = begin; k < end; ++k) {
        const T key = keys[k - begin];
        links[k].key = key >= 0 ? key : kInf;  // not NaN, as exact keys
      }
    });
  }

  // The key that decides: in double, the same on every path.
  double exact_key(int32_t i, int32_t j) const {
    if (coded) {
      return table.refine(cloud.rows[ids[i]], cloud.rows[ids[j]], stride, cloud.term);
    }
    static thread_local Buffer<T> buffer;
    T* x = buffer.reserve(2 * stride);
    cloud.load(ids[i], x);
    cloud.load(ids[j], x + stride);
    return table.refine(x, x + stride, stride, cloud.term);
  }

  // Packs the points in their current order, as codes or as coordinates.
  void gather() {
    const auto point = [&](int64_t p) { return row(p); };
    if (!coded) {
      packed.pack(m, threads, [&](int64_t p, T* x) { cloud.load(id(p), x); });
      return;
    }
    // The first call finds the points in random order, so the first 256 of them are a sample.
    if (!scaling.chosen()) scaling.choose(std::min<int64_t>(m, 256), stride, largest, point);
    packed.encode(m, scaling, threads, point);
  }
};

}  // namespace tsloss
