// Fast keys of pairs of points, in tiles.
//
// A thread holds 4 x 4 keys. Its rows lie `step` apart, so that neighbouring threads read
// neighbouring rows of shared memory: with rows of 36 floats no two meet in a bank.
#pragma once

#include "cuda/cloud.cuh"

namespace tsloss {
namespace cuda {

constexpr int kRowsOfThread = 4;
constexpr int kTile = 64;
constexpr int kTileThreads = 256;

// Numbers of a row of a chunk in shared memory, a multiple of 16 bytes.
template <class S>
constexpr int kPitch = kChunk + 16 / static_cast<int>(sizeof(S));

template <class S>
struct alignas(16) Packed {
  S value[16 / sizeof(S)];
};

// Adds coordinates [begin, end) of a chunk to the sums of a thread, whose rows and columns lie
// `a_step` and `b_step` numbers apart. All are multiples of 16 bytes.
template <Term kTerm, class S>
__device__ __forceinline__ void accumulate(const S* a, int a_step, const S* b, int b_step,
                                           int begin, int end, float (&sum)[4][4]) {
  constexpr int kWidth = 16 / static_cast<int>(sizeof(S));
#pragma unroll 1  // more would not fit the registers of two blocks
  for (int k = begin; k < end; k += kWidth) {
    Packed<S> x[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      x[r] = *reinterpret_cast<const Packed<S>*>(a + r * a_step + k);
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const Packed<S> y = *reinterpret_cast<const Packed<S>*>(b + c * b_step + k);
#pragma unroll
      for (int w = 0; w < kWidth; ++w) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const float d = static_cast<float>(x[r].value[w] - y.value[w]);
          sum[r][c] =
              kTerm == Term::kSquared ? __fmaf_rn(d, d, sum[r][c]) : __fadd_rn(sum[r][c], fabsf(d));
        }
      }
    }
  }
}

// Copies coordinates [k, k + kChunk) of `rows` points to shared memory, with zeros beyond the
// points and the coordinates. row(r) is a point, or -1.
template <class Cloud, class Row>
__device__ __forceinline__ void stage(const Cloud& cloud, int rows, Row row, int64_t k,
                                      int64_t k_end, typename Cloud::Staged* chunk) {
  using S = typename Cloud::Staged;
  for (int t = threadIdx.x; t < rows * kChunk; t += blockDim.x) {
    const int r = t / kChunk, at = t % kChunk;
    const int point = row(r);
    chunk[r * kPitch<S> + at] = point >= 0 && k + at < k_end ? cloud.staged(point, k + at) : S{0};
  }
}

// Keys of 64 x 64 pairs by a block of 16 x 16 threads: thread (y, x) has rows y + 16 r and columns
// x + 16 c. Coordinates [begin, end).
template <class Cloud, class Row, class Column>
__device__ __forceinline__ void tile_keys(const Cloud& cloud, Row row, Column column, int64_t begin,
                                          int64_t end, typename Cloud::Staged* a,
                                          typename Cloud::Staged* b, float (&keys)[4][4]) {
  constexpr int kWide = kPitch<typename Cloud::Staged>;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  for (int64_t k = begin; k < end; k += kChunk) {
    stage(cloud, kTile, row, k, end, a);
    stage(cloud, kTile, column, k, end, b);
    __syncthreads();
    float sum[4][4] = {};
    accumulate<Cloud::kTerm>(a + y * kWide, 16 * kWide, b + x * kWide, 16 * kWide, 0, kChunk, sum);
#pragma unroll
    for (int e = 0; e < 16; ++e) {
      keys[e / 4][e % 4] = __fadd_rn(keys[e / 4][e % 4], sum[e / 4][e % 4]);
    }
    __syncthreads();
  }
}

// keys (clouds, splits, points, points): sums over a part of the coordinates each, both triangles.
// Grid: (tiles of the upper triangle, splits, clouds).
template <class P, Term kTerm>
__global__ void __launch_bounds__(kTileThreads)
    distance_tiles(const P* points, Batch batch, const Facts* facts, bool ranged, int64_t slice,
                   float* keys) {
  using Cloud = PointCloud<P, kTerm>;
  using S = typename Cloud::Staged;
  TSLOSS_SHARED(Packed<S>, shared, 2 * kTile * kPitch<S> / (16 / sizeof(S)));
  S* a = reinterpret_cast<S*>(shared);
  S* b = a + kTile * kPitch<S>;
  for (int64_t c = blockIdx.z; c < batch.clouds; c += gridDim.z) {
    const int n = batch.valid(c);
    const Cloud cloud = point_cloud<P, kTerm>(points, batch, c, facts[c], ranged);
    int ti, tj;
    tile_at(blockIdx.x, static_cast<int>((batch.points + kTile - 1) / kTile), &ti, &tj);
    if (tj * kTile >= n) continue;
    const auto row = [=](int r) { return ti * kTile + r < n ? ti * kTile + r : -1; };
    const auto column = [=](int r) { return tj * kTile + r < n ? tj * kTile + r : -1; };
    const int64_t begin = blockIdx.y * slice;
    const int64_t end = begin + slice < batch.dim ? begin + slice : batch.dim;
    float sum[4][4] = {};
    tile_keys(cloud, row, column, begin, end, a, b, sum);
    float* out = keys + (c * gridDim.y + blockIdx.y) * batch.points * batch.points;
    for (int r = 0; r < 4; ++r) {
      const int i = row(threadIdx.x / 16 + 16 * r);
      for (int q = 0; q < 4; ++q) {
        const int j = column(threadIdx.x % 16 + 16 * q);
        if (i < 0 || j < 0) continue;
        const float key = ordered(sum[r][q]);
        out[i * batch.points + j] = key;
        // The mirror image of a tile on the diagonal is in the tile.
        if (ti != tj) out[j * batch.points + i] = key;
      }
    }
  }
}

// The parts of each sum, added in one order: part 0 becomes the sum. Grid: (any, clouds).
__global__ void __launch_bounds__(256) sum_splits(Batch batch, int splits, float* keys) {
  const int64_t entries = batch.points * batch.points;
  for (int64_t c = blockIdx.y; c < batch.clouds; c += gridDim.y) {
    float* parts = keys + c * splits * entries;
    for (int64_t e = blockIdx.x * blockDim.x + threadIdx.x; e < entries;
         e += static_cast<int64_t>(gridDim.x) * blockDim.x) {
      // Beyond the valid points nothing was written.
      const int64_t n = batch.valid(c);
      if (e / batch.points >= n || e % batch.points >= n) continue;
      float sum = parts[e];
      for (int s = 1; s < splits; ++s) sum = __fadd_rn(sum, parts[s * entries + e]);
      parts[e] = sum;
    }
  }
}

}  // namespace cuda
}  // namespace tsloss
