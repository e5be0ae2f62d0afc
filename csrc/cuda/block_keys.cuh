// Fast keys of all pairs of a small cloud, by one block, which reads the points once and notices
// unusable numbers on the way.
#pragma once

#include "cuda/chunk.cuh"

namespace tsloss {
namespace cuda {

// Sums over coordinates [begin, end) for all pairs of n > 0 points: that of rows a + m r and
// b + m q is in sums[(4 r + q) * tiles + tile]. `sums` may be where the chunks are staged.
template <class Cloud>
__device__ PartialMinima<typename Cloud::Staged> block_sums(const Cloud& cloud, int n,
                                                            const Tiling& tiling, int64_t begin,
                                                            int64_t end,
                                                            typename Cloud::Staged* staging,
                                                            float* sums) {
  using S = typename Cloud::Staged;
  const int apart = rows_apart(n), tiles = tiles_of(n);
  const int tile = static_cast<int>(threadIdx.x) % tiles;
  const int slice = static_cast<int>(threadIdx.x) / tiles;
  const int share = tiling.width / tiling.slices;
  int a = 0, b = 0;
  tile_at(tile, apart, &a, &b);
  PartialMinima<S> minima;
  Chunk<Cloud> next(cloud, n, tiling.width, begin, end);
  float sum[4][4] = {};
  const int pitch = next.pitch;
  const int size = next.rows * pitch;
  int at = 0;  // of the chunk; the other one is at size - at
  bool more = next.left > 0;
  if (more) next.load(staging);
  while (more) {
    next.arrive(staging + at, &minima);
    // No thread reads the other chunk any more.
    __syncthreads();
    more = next.left > 0;
    if (more) next.load(staging + size - at);
    if (slice < tiling.slices) {
      accumulate<Cloud::kTerm>(staging + at + a * pitch, apart * pitch, staging + at + b * pitch,
                               apart * pitch, slice * share, (slice + 1) * share, sum);
    }
    at = size - at;
  }
  for (int s = 0; s < tiling.slices; ++s) {
    __syncthreads();
    if (slice != s) continue;
#pragma unroll
    for (int e = 0; e < 16; ++e) {
      float* at = sums + e * tiles + tile;
      *at = s == 0 ? sum[e / 4][e % 4] : __fadd_rn(*at, sum[e / 4][e % 4]);
    }
  }
  __syncthreads();
  return minima;
}

// The sums of `parts`, `stride` numbers apart, as a matrix of keys (n, n).
__device__ inline void spread_keys(int n, const float* sums, int parts, int64_t stride,
                                   float* keys) {
  const int apart = rows_apart(n), tiles = tiles_of(n);
  const int tile = static_cast<int>(threadIdx.x) % tiles;
  const int groups = static_cast<int>(blockDim.x) / tiles;
  const int group = static_cast<int>(threadIdx.x) / tiles;
  if (group >= groups) return;
  int a, b;
  tile_at(tile, apart, &a, &b);
  for (int e = group; e < 16; e += groups) {
    const int r = e / 4, q = e % 4, i = a + apart * r, j = b + apart * q;
    // The mirror image of a tile on the diagonal is in the tile.
    if (i >= n || j >= n || (a == b && r > q)) continue;
    const float* at = sums + e * tiles + tile;
    float sum = *at;
#pragma unroll 8
    for (int p = 1; p < parts; ++p) sum = __fadd_rn(sum, at[p * stride]);
    keys[i * n + j] = keys[j * n + i] = ordered(sum);
  }
}

}  // namespace cuda
}  // namespace tsloss
