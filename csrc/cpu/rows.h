// Copies the points of a cloud into aligned rows padded with zeros, and checks them on the way.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cpu/kernels/kernels.h"
#include "tsloss.h"

namespace tsloss {

template <class T, class W>
Finding load_rows(const T* points, int64_t n, int64_t dim, W* rows, int64_t stride) {
  const auto copy = kernels<W>().copy_row;
  for (int64_t i = 0; i < n; ++i) {
    W* row = rows + i * stride;
    // The copy is checked rather than the points, which another thread may change meanwhile.
    bool finite;
    if constexpr (std::is_same_v<T, W>) {
      finite = copy(points + i * dim, dim, row);
    } else {
      std::copy_n(points + i * dim, dim, row);
      finite = copy(row, dim, row);
    }
    if (dim == 0) std::fill_n(row, stride, W{0});
    if (!finite) return {Problem::kNonFinite, 0, i, -1};
  }
  return {};
}

// Whether all coordinates are integers so small that the squares of differences and their sums are
// exact in T. Fast keys of such rows are exact, so they decide ties.
template <class T>
bool is_lattice_row(const T* x, int64_t dim) {
  const T most = std::sqrt((sizeof(T) == 4 ? T(0x1p22) : T(0x1p51)) / T(dim > 1 ? dim : 1));
  // Adding this number and subtracting it again rounds to an integer.
  constexpr T kRound = sizeof(T) == 4 ? T(0x1.8p23) : T(0x1.8p52);
  int bad = 0;
#pragma omp simd reduction(| : bad)
  for (int64_t k = 0; k < dim; ++k) {
    bad |= !(std::fabs(x[k]) <= most) | ((x[k] + kRound) - kRound != x[k]);
  }
  return bad == 0;
}

// A power of two as two factors, each within the range of double, so that x * first * second scales
// any x even where the power itself would overflow.
struct PowerOfTwo {
  double first = 1;
  double second = 1;
  explicit PowerOfTwo(int exponent)
      : first(std::ldexp(1.0, exponent / 2)), second(std::ldexp(1.0, exponent - exponent / 2)) {}
  double operator()(double x) const { return x * first * second; }
};

// Sets out = x / |x| and returns |x|, or returns 0 for a zero vector and does not touch `out`. The
// norm is computed of x scaled to about 1, so that no square leaves the range of double.
template <class T>
double normalise(const T* x, int64_t dim, double* out) {
  double largest = 0;
  for (int64_t k = 0; k < dim; ++k) largest = std::max(largest, std::fabs(double(x[k])));
  if (largest == 0) return 0;
  const int exponent = std::ilogb(largest);
  const PowerOfTwo scale(-exponent);
  double sum[8] = {};
  for (int64_t k = 0; k < dim; ++k) {
    const double scaled = scale(double(x[k]));
    sum[k % 8] += scaled * scaled;
  }
  for (int l = 1; l < 8; ++l) sum[0] += sum[l];
  const double norm = std::sqrt(sum[0]);
  for (int64_t k = 0; k < dim; ++k) out[k] = scale(double(x[k])) / norm;
  return PowerOfTwo(exponent)(norm);
}

// Copies point i to a padded row and checks it. Under the cosine metric, whose rows are of double,
// the row gets unit length. A zero vector has no direction, which is a problem unless there are no
// coordinates at all: points without coordinates coincide under every metric.
template <class T, class W>
Problem load_point(Metric metric, const T* points, int64_t dim, int64_t stride, int64_t i, W* row) {
  const Finding found = load_rows(points + i * dim, 1, dim, row, stride);
  if (found.problem != Problem::kNone) return found.problem;
  if constexpr (std::is_same_v<W, double>) {
    if (metric == Metric::kCosine && dim > 0 && normalise(row, dim, row) == 0) {
      return Problem::kZeroVector;
    }
  }
  return Problem::kNone;
}

}  // namespace tsloss
