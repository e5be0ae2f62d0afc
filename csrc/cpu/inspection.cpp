// Test hooks: the keys that trees are built from, and which pairs the filter of codes keeps.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "cpu/dense/dense.h"
#include "cpu/large/large.h"
#include "cpu/rows.h"
#include "tsloss.h"

namespace tsloss {
namespace {

template <class T>
void keeps_of(const LargeCloud<T>& cloud, double factor, uint8_t* kept) {
  LargeScratch<T> scratch;
  FilterContext<T> context(cloud.dim, cloud.term, true, 1);
  OrderedPoints<T> points(cloud.dim, scratch);
  const PackedRows<T>& packed = points.packed;
  points.rows = cloud.rows;
  points.order.resize(static_cast<size_t>(cloud.n));
  std::iota(points.order.begin(), points.order.end(), 0);
  for (int64_t i = 0; i < cloud.n; ++i) {
    for (int64_t k = 0; k < context.stride; ++k) {
      context.largest = std::max(context.largest, std::fabs(cloud.rows[i][k]));
    }
  }
  context.pack(points, cloud.load);
  const Pairs<T> pairs(context, points, points);
  for (int64_t i = 0; i < cloud.n; i += kTileRows) {
    const int rows = static_cast<int>(std::min(kTileRows, cloud.n - i));
    for (int64_t t = 0; t < packed.blocks(); ++t) {
      const typename PackedRows<T>::Codes codes(packed, i, rows, packed, t, packed.largest_norm(t));
      for (int r = 0; r < rows; ++r) {
        alignas(64) float bound[kTileColumns];
        const float none = -std::numeric_limits<float>::infinity();
        std::fill_n(bound, kTileColumns, none);
        const int64_t end = std::min(cloud.n - t * kTileColumns, kTileColumns);
        for (int64_t j = 0; j < end; ++j) {
          bound[j] = context.scaling.bound(
              static_cast<T>(pairs.exact_key(i + r, t * kTileColumns + j) * factor));
        }
        uint64_t masks[kTileRows];
        codes.survivors(r, 1, &none, bound, masks);
        for (int64_t j = 0; j < end; ++j) {
          kept[(i + r) * cloud.n + t * kTileColumns + j] = (masks[r] >> j) & 1;
        }
      }
    }
  }
}

template <class T>
void keys_of(Metric metric, const BatchShape& shape, const T* points, T* distances, int threads) {
  const int64_t stride = round_up(std::max<int64_t>(shape.dim, 1), kLanes);
  Buffer<T> rows;
  rows.reserve(std::max<int64_t>(shape.points, 1), stride);
  for (int64_t cloud = 0; cloud < shape.batch; ++cloud) {
    const int64_t n = shape.points;
    load_rows(points + cloud * n * shape.dim, n, shape.dim, rows.data(), stride);
    if (n == 0) continue;
    keys_by_rows(Rows<T>{rows.data(), stride, stride}, n, term_of(metric), threads,
                 distances + cloud * n * n, n);
  }
}

template <class T>
void keeps_of(const BatchShape& shape, const T* points, double factor, uint8_t* kept) {
  const int64_t stride = round_up(std::max<int64_t>(shape.dim, 1), kLanes);
  Buffer<T> rows;
  rows.reserve(std::max<int64_t>(shape.points, 1), stride);
  load_rows(points, shape.points, shape.dim, rows.data(), stride);
  const LargeCloud<T> cloud{
      shape.points, shape.dim, Term::kSquared, {rows.data(), stride, stride}, nullptr};
  keeps_of(cloud, factor, kept);
}

}  // namespace

void filter_keeps(Dtype dtype, const BatchShape& shape, const void* points, double factor,
                  uint8_t* kept) {
  if (dtype == Dtype::kFloat64) {
    keeps_of(shape, static_cast<const double*>(points), factor, kept);
  } else {
    keeps_of(shape, static_cast<const float*>(points), factor, kept);
  }
}

void pairwise_keys(Dtype dtype, Metric metric, const BatchShape& shape, const void* points,
                   void* distances, int threads) {
  if (dtype == Dtype::kFloat64) {
    keys_of(metric, shape, static_cast<const double*>(points), static_cast<double*>(distances),
            threads);
  } else {
    keys_of(metric, shape, static_cast<const float*>(points), static_cast<float*>(distances),
            threads);
  }
}

}  // namespace tsloss
