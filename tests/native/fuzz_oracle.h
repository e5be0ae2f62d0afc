// What the core should answer, written down again and plainly: the exact keys (sixteen sums in
// double, see csrc/README.md), Prim's algorithm on all pairs, the gradient in double.
#pragma once

#include <cmath>
#include <vector>

#include "cpu/tree/tree.h"
#include "fuzz_input.h"

namespace fuzz {

using tsloss::Metric;
using tsloss::Problem;

struct Bar {
  double length;
  int64_t i;
  int64_t j;
};

inline bool shorter(const Bar& a, const Bar& b) {
  if (a.length != b.length) return a.length < b.length;
  return a.i != b.i ? a.i < b.i : a.j < b.j;
}

// The tree of n points by (length, smaller index, larger index).
template <class Length>
std::vector<Bar> tree_of(int64_t n, const Length& length) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  std::vector<Bar> best(static_cast<size_t>(n), {kInf, n, n}), tree;
  std::vector<char> inside(static_cast<size_t>(n), 0);
  int64_t u = 0;
  for (int64_t k = 0; k + 1 < n; ++k) {
    inside[u] = 1;
    Bar next{kInf, n, n};
    int64_t chosen = -1;
    for (int64_t v = 0; v < n; ++v) {
      if (inside[v]) continue;
      const Bar bar{length(u, v), std::min(u, v), std::max(u, v)};
      if (shorter(bar, best[v])) best[v] = bar;
      if (chosen < 0 || shorter(best[v], next)) next = best[v], chosen = v;
    }
    tree.push_back(next);
    u = chosen;
  }
  return tree;
}

class LaneSums {
 public:
  void add(int64_t k, double x) { lane_[k % 16] += x; }
  double total() const {
    const auto pair = [&](int l) { return lane_[l] + lane_[l + 8]; };
    return ((pair(0) + pair(4)) + (pair(2) + pair(6))) +
           ((pair(1) + pair(5)) + (pair(3) + pair(7)));
  }

 private:
  double lane_[16] = {};
};

template <class T>
double exact_key(const T* x, const T* y, int64_t dim, bool squared) {
  LaneSums sums;
  for (int64_t k = 0; k < dim; ++k) {
    const volatile double d = double(x[k]) - double(y[k]);
    const volatile double term = squared ? d * d : std::fabs(d);
    sums.add(k, term);
  }
  return sums.total();
}

// The length where squares leave the range of the type: scaled by a power of two.
template <class T>
double scaled_length(const T* x, const T* y, int64_t dim, bool squared) {
  if (!squared || sizeof(T) == 4) {
    const double key = exact_key(x, y, dim, squared);
    return squared ? std::sqrt(key) : key;
  }
  double largest = 0;
  for (int64_t k = 0; k < dim; ++k) largest = std::max(largest, std::fabs(double(x[k] - y[k])));
  if (largest == 0 || !std::isfinite(largest)) return largest;
  const int exponent = std::ilogb(largest);
  LaneSums sums;
  for (int64_t k = 0; k < dim; ++k) {
    const volatile double d = std::scalbn(double(x[k] - y[k]), -exponent);
    const volatile double square = d * d;
    sums.add(k, square);
  }
  return std::scalbn(std::sqrt(sums.total()), exponent);
}

// Deaths of a metric, in T, by (death, smaller index, larger index).
template <class T>
struct Barcode {
  std::vector<T> deaths;
  std::vector<int64_t> edges;

  template <class Death>
  Barcode(const std::vector<Bar>& tree, const Death& death) {
    std::vector<Bar> bars;
    for (const Bar& b : tree) bars.push_back({double(static_cast<T>(death(b.length))), b.i, b.j});
    std::sort(bars.begin(), bars.end(), shorter);
    for (const Bar& b : bars) {
      deaths.push_back(static_cast<T>(b.length));
      edges.insert(edges.end(), {b.i, b.j});
    }
  }

  bool is(const T* other_deaths, const int64_t* other_edges) const {
    return std::equal(deaths.begin(), deaths.end(), other_deaths) &&
           std::equal(edges.begin(), edges.end(), other_edges);
  }
};

template <class T>
Barcode<T> barcode_by_keys(const T* x, int64_t n, int64_t dim, Metric metric) {
  const bool squared = metric != Metric::kManhattan;
  const auto tree = tree_of(
      n, [&](int64_t i, int64_t j) { return exact_key(x + i * dim, x + j * dim, dim, squared); });
  return Barcode<T>(
      tree, [&](double key) { return metric == Metric::kEuclidean ? std::sqrt(key) : key; });
}

template <class T>
Barcode<T> barcode_by_lengths(const T* x, int64_t n, int64_t dim, Metric metric) {
  const bool squared = metric != Metric::kManhattan;
  const auto tree = tree_of(n, [&](int64_t i, int64_t j) {
    return scaled_length(x + i * dim, x + j * dim, dim, squared);
  });
  return Barcode<T>(tree, [&](double d) { return metric == Metric::kSqeuclidean ? d * d : d; });
}

// Whether the key of some pair of different points is near an end of the range of T or beyond:
// there lengths, not keys, may decide between ties.
template <class T>
bool leaves_range(const T* x, int64_t n, int64_t dim) {
  const double low = 64 * double(tsloss::underflow_limit<T>(dim));
  const double high = double(std::numeric_limits<T>::max()) / 64;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) {
      const double key = exact_key(x + i * dim, x + j * dim, dim, true);
      if (std::equal(x + i * dim, x + (i + 1) * dim, x + j * dim)) continue;
      if (!(key >= low && key <= high)) return true;
    }
  }
  return false;
}

// 1 - cos of all pairs, in long double.
template <class T>
std::vector<std::vector<long double>> units_of(const T* x, int64_t n, int64_t dim) {
  std::vector<std::vector<long double>> units;
  for (int64_t i = 0; i < n; ++i) {
    std::vector<long double> u(x + i * dim, x + (i + 1) * dim);
    long double sum = 0;
    for (const long double v : u) sum += v * v;
    for (long double& v : u) v /= std::sqrt(sum);
    units.push_back(std::move(u));
  }
  return units;
}

inline long double cosine_distance(const std::vector<long double>& u,
                                   const std::vector<long double>& v) {
  long double sum = 0;
  for (size_t k = 0; k < u.size(); ++k) sum += (u[k] - v[k]) * (u[k] - v[k]);
  return sum / 2;
}

inline bool spans(int64_t n, const int64_t* edges) {
  std::vector<int64_t> parent(static_cast<size_t>(n));
  for (int64_t v = 0; v < n; ++v) parent[v] = v;
  const auto find = [&](int64_t v) {
    while (parent[v] != v) v = parent[v] = parent[parent[v]];
    return v;
  };
  for (int64_t k = 0; k + 1 < n; ++k) {
    const int64_t i = edges[2 * k], j = edges[2 * k + 1];
    if (i < 0 || i >= j || j >= n) return false;
    const int64_t a = find(i), b = find(j);
    if (a == b) return false;
    parent[a] = b;
  }
  return true;
}

// What is wrong with the points of a cloud, and with which one.
template <class T>
Problem problem_of(const T* x, int64_t n, int64_t dim, Metric metric, int64_t* point) {
  for (int64_t i = 0; i < n; ++i) {
    bool zero = dim > 0;
    *point = i;
    for (int64_t k = 0; k < dim; ++k) {
      if (!std::isfinite(x[i * dim + k])) return Problem::kNonFinite;
      zero = zero && x[i * dim + k] == 0;
    }
    if (zero && metric == Metric::kCosine) return Problem::kZeroVector;
  }
  return Problem::kNone;
}

}  // namespace fuzz
