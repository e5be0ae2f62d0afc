// The keys that a forest grows by, and the first bounds of its segments. Where the memory for all
// keys is had (plan.cuh) they are stored, else computed again.
#pragma once

#include "cuda/distances.cuh"
#include "cuda/forest.cuh"

namespace tsloss {
namespace cuda {

// Keys (clouds, points, points) in memory.
struct StoredKeys {
  const float* keys;
  int64_t cloud_stride, stride;

  __device__ StoredKeys of(int64_t c, const Batch&, const Facts&) const {
    return {keys + c * cloud_stride, cloud_stride, stride};
  }
  // For whole warps: the key of column base + lane, or kNoKey where `wanted` lacks the lane.
  __device__ __forceinline__ u32 row_keys(int row, int base, u32 wanted) const {
    const int lane = threadIdx.x % 32;
    return wanted >> lane & 1 ? __float_as_uint(keys[row * stride + base + lane]) : kNoKey;
  }
};

// Keys from the points, four at a time.
template <class P, Term kTerm>
struct ComputedKeys {
  const P* points;
  bool ranged;

  struct Source {
    PointCloud<P, kTerm> cloud;

    __device__ u32 row_keys(int row, int base, u32 wanted) const {
      const int lane = threadIdx.x % 32;
      u32 mine = kNoKey;
      while (wanted) {
        int at[4];
        float sum[4] = {};
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          at[q] = wanted ? __ffs(static_cast<int>(wanted)) - 1 : at[0];
          wanted &= wanted - 1;
        }
        for (int64_t k = lane; k < cloud.dim; k += 32) {
          const auto x = cloud.staged(row, k);
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            const float d = static_cast<float>(x - cloud.staged(base + at[q], k));
            sum[q] =
                kTerm == Term::kSquared ? __fmaf_rn(d, d, sum[q]) : __fadd_rn(sum[q], fabsf(d));
          }
        }
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          for (int step = 16; step > 0; step /= 2) {
            sum[q] = __fadd_rn(sum[q], __shfl_xor_sync(kAll, sum[q], step));
          }
          if (lane == at[q]) mine = __float_as_uint(ordered(sum[q]));
        }
      }
      return mine;
    }
  };

  __device__ Source of(int64_t c, const Batch& batch, const Facts& facts) const {
    return {point_cloud<P, kTerm>(points, batch, c, facts, ranged)};
  }
};

// bounds of stored keys. A warp for each row. Grid: (any, clouds).
__global__ void __launch_bounds__(256, 4)
    bound_segments(Batch batch, StoredKeys stored, Forest forests) {
  const int lane = threadIdx.x % 32;
  for_growing(batch, forests, [&](int64_t c, const Forest& forest, int n) {
    for_rows(n, [&](int64_t row) {
      const float* keys = stored.keys + c * stored.cloud_stride + row * stored.stride;
      for (int64_t s = 0; s < forest.segments; ++s) {
        u32 least = kNoKey;
        for (int64_t j = s * forest.width + lane; j < min((s + 1) * forest.width, int64_t{n});
             j += 32) {
          if (j != row) least = min(least, __float_as_uint(keys[j]));
        }
        least = __reduce_min_sync(kAll, least);
        if (lane == 0) forest.bounds_of(row)[s] = least;
      }
    });
  });
}

// bounds by way of keys that nobody stores. Grid: (tiles of the upper triangle, clouds).
template <class P, Term kTerm>
__global__ void __launch_bounds__(kTileThreads)
    bound_tiles(const P* points, Batch batch, const Facts* facts, bool ranged, Forest forests) {
  using Cloud = PointCloud<P, kTerm>;
  using S = typename Cloud::Staged;
  TSLOSS_SHARED(Packed<S>, shared, 2 * kTile * kPitch<S> / (16 / sizeof(S)));
  S* a = reinterpret_cast<S*>(shared);
  S* b = a + kTile * kPitch<S>;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  int ti, tj;
  tile_at(blockIdx.x, static_cast<int>((batch.points + kTile - 1) / kTile), &ti, &tj);
  for (int64_t c = blockIdx.y; c < batch.clouds; c += gridDim.y) {
    const Forest forest = forests.at(c);
    const int n = batch.valid(c);
    if (tj * kTile >= n || forest.finished(n)) continue;
    const Cloud cloud = point_cloud<P, kTerm>(points, batch, c, facts[c], ranged);
    const auto row = [=](int r) { return ti * kTile + r < n ? ti * kTile + r : -1; };
    const auto column = [=](int r) { return tj * kTile + r < n ? tj * kTile + r : -1; };
    float sum[4][4] = {};
    tile_keys(cloud, row, column, 0, batch.dim, a, b, sum);
    u32 of_row[4] = {kNoKey, kNoKey, kNoKey, kNoKey},
        of_column[4] = {kNoKey, kNoKey, kNoKey, kNoKey};
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int i = row(y + 16 * r);
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int j = column(x + 16 * q);
        if (i < 0 || j < 0 || i == j) continue;
        of_row[r] = min(of_row[r], __float_as_uint(sum[r][q]));
        of_column[q] = min(of_column[q], __float_as_uint(sum[r][q]));
      }
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      for (int step = 8; step > 0; step /= 2) {
        of_row[r] = min(of_row[r], __shfl_xor_sync(kAll, of_row[r], step));
      }
      const int i = row(y + 16 * r);
      if (x == 0 && i >= 0) {
        atomicMin(&forest.bounds_of(i)[tj * kTile / forest.width], of_row[r]);
      }
      // The mirror image of a tile on the diagonal is in the tile.
      of_column[r] = min(of_column[r], __shfl_xor_sync(kAll, of_column[r], 16));
      const int j = column(x + 16 * r);
      if (ti != tj && y % 2 == 0 && j >= 0) {
        atomicMin(&forest.bounds_of(j)[ti * kTile / forest.width], of_column[r]);
      }
    }
  }
}

}  // namespace cuda
}  // namespace tsloss
