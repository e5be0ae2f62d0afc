// Exact keys of pairs in up to four dimensions, bounds below them, and lists of near points.
//
// `refine` (kernels/rows.inl) adds the terms of sixteen lanes in pairs. With four coordinates or
// fewer that is the order of add_terms, so these keys have the same bits.
//
// A measure is a function of the differences d[0], ..., d[D - 1] of two points. It never falls if
// some |d[k]| grows, and that holds for the rounded result, too: each operation in it (a square, a
// sum, a root, a multiplication by a power of two) is monotone, and rounding is. The difference of
// two coordinates is monotone for the same reason. So the measure of the gaps between two boxes is
// at most the key of every pair of points in them, without any margin for rounding.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <utility>

#include "cpu/kernels/kernels.h"
#include "cpu/runtime/buffer.h"
#include "cpu/tree/tree.h"

namespace tsloss {

template <int D>
double add_terms(const double* t) {
  if constexpr (D == 1) return t[0];
  if constexpr (D == 2) return t[0] + t[1];
  if constexpr (D == 3) return (t[0] + t[2]) + t[1];
  if constexpr (D == 4) return (t[0] + t[2]) + (t[1] + t[3]);
}

// The nearest known points of each point of a leaf: see LeafKernels.
template <int kCount>
struct NearPoints {
  alignas(kAlignment) double keys[kCount][kLeafPoints];
  alignas(kAlignment) int64_t tags[kCount][kLeafPoints];

  explicit NearPoints(double radius) {
    std::fill_n(keys[0], kCount * kLeafPoints, radius);
    std::fill_n(tags[0], kCount * kLeafPoints, std::numeric_limits<int64_t>::max());
  }
};

// Keys that the kernels of the instruction set compute.
template <int D, Term kTerm>
struct Keys {
  static double of(const double* d) {
    double terms[D];
    for (int k = 0; k < D; ++k) terms[k] = kTerm == Term::kSquared ? d[k] * d[k] : std::fabs(d[k]);
    return add_terms<D>(terms);
  }

  template <int kCount>
  static uint32_t near(LeafSearch& search, const double* y, const int64_t* tags, uint32_t among,
                       double radius, NearPoints<kCount>& points) {
    search.dim = D;
    search.term = kTerm;
    const auto kernel = kCount == 1 ? leaf_kernels().nearest : leaf_kernels().near;
    return kernel(search, y, tags, among, radius, points.keys[0], points.tags[0]);
  }
};

// The lengths of prim_robust. Those of floats are the same by its formula for doubles, since a
// power of two changes no digit of their squares.
template <int D>
struct Lengths {
  static double of(const double* d) {
    static constexpr double zero[D] = {};
    return robust_length(d, zero, D, Term::kSquared);
  }

  template <int kCount>
  static uint32_t near(const LeafSearch& search, const double* y, const int64_t* tags,
                       uint32_t among, double, NearPoints<kCount>& points) {
    uint32_t changed = 0;
    for (int lane = 0; lane < kLeafPoints; ++lane) {
      if (!(search.lanes >> lane & 1)) continue;
      for (int other = 0; other < kLeafPoints; ++other) {
        if (!(among >> other & 1) || (search.own && other == lane)) continue;
        double d[D];
        for (int k = 0; k < D; ++k) {
          d[k] = search.x[k * kLeafPoints + lane] - y[k * kLeafPoints + other];
        }
        std::pair<double, int64_t> now{of(d), tags[other]};
        for (int k = 0; k < kCount; ++k) {
          const std::pair<double, int64_t> old{points.keys[k][lane], points.tags[k][lane]};
          if (!(now < old)) continue;
          std::tie(points.keys[k][lane], points.tags[k][lane]) = now;
          now = old;
          changed |= uint32_t{1} << lane;
        }
      }
    }
    return changed;
  }
};

}  // namespace tsloss
