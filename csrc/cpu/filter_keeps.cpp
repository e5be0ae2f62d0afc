#include <cmath>
#include <limits>
#include <numeric>

#include "cpu/large.h"
#include "cpu/large_points.h"

namespace tsloss {

template <class T>
void filter_keeps(const LargeCloud<T>& cloud, double factor, uint8_t* kept) {
  LargeScratch<T> scratch;
  LargePoints<T> points(cloud, 1, scratch);
  points.m = cloud.n;
  points.ids.resize(static_cast<size_t>(points.m));
  std::iota(points.ids.begin(), points.ids.end(), 0);
  points.order = points.ids;
  for (int64_t i = 0; i < points.m; ++i) {
    for (int64_t k = 0; k < points.stride; ++k) {
      points.largest = std::max(points.largest, std::fabs(cloud.rows[i][k]));
    }
  }
  points.gather();
  for (int64_t i = 0; i < points.m; i += kTileRows) {
    const int rows = static_cast<int>(std::min(kTileRows, points.m - i));
    for (int64_t t = 0; t < points.line.blocks(); ++t) {
      alignas(64) int32_t dots[kTileRows * kTileColumns];
      points.line.dot(i, points.line, t, dots);
      const TileSides sides = points.line.tile_sides(i, rows, points.line.largest_norm(t));
      for (int r = 0; r < rows; ++r) {
        alignas(64) float bound[kTileColumns];
        const float none = -std::numeric_limits<float>::infinity();
        std::fill_n(bound, kTileColumns, none);
        const int64_t end = std::min(points.m - t * kTileColumns, kTileColumns);
        for (int64_t j = 0; j < end; ++j) {
          const int32_t q = static_cast<int32_t>(t * kTileColumns + j);
          bound[j] = points.frame.bound(
              static_cast<T>(points.exact_key(static_cast<int32_t>(i + r), q) * factor));
        }
        uint64_t mask;
        TileBounds b = points.line.tile_bounds(sides, t);
        b.row_scale += r;
        b.row_low += r;
        b.row_bound = &none;
        b.column_bound = bound;
        filter().survivors(dots + r * kTileColumns, b, 1, &mask);
        for (int64_t j = 0; j < end; ++j) {
          kept[(i + r) * points.m + t * kTileColumns + j] = (mask >> j) & 1;
        }
      }
    }
  }
}

template void filter_keeps(const LargeCloud<float>&, double, uint8_t*);
template void filter_keeps(const LargeCloud<double>&, double, uint8_t*);

}  // namespace tsloss
