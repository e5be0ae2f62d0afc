// Distance matrices: what is wrong with them, and their entries as fast keys.
#pragma once

#include "cuda/cloud.cuh"

namespace tsloss {
namespace cuda {

constexpr int kMatrixTile = 32;

// The problem of entry number `entry`, (i, j), which is `a`, its mirror image being `b`. The
// smallest is that to be named: the first NaN, else the first of the rest, else the first infinite
// distance.
__device__ __forceinline__ u64 problem_of_entry(double a, double b, bool diagonal, bool above,
                                                double tolerance, int64_t entry) {
  const u64 at = static_cast<u64>(entry) << 8;
  if (a != a) return at | kNonFinite;
  const u64 other = 1ull << 62 | at;
  if (diagonal) return a == 0 ? kNoExact : other | kDiagonal;
  if (a < 0) return other | kNegative;
  if (above && b >= 0 && a != b) {
    const double larger = fmax(a, b);
    if (!(larger <= kLargestDouble && fabs(a - b) <= tolerance * larger))
      return other | kAsymmetric;
  }
  return a <= kLargestDouble ? kNoExact : kInfiniteEntry | at | kNonFinite;
}

// Fast keys (clouds, points, points), and Facts::problem. Keys beyond the range of float are
// infinite or 0, and left to the exact ones. Grid: (tiles of the upper triangle, clouds); a block
// has a tile and its mirror image.
template <class P>
__global__ void __launch_bounds__(256)
    look_at_matrices(const P* distances, Batch batch, double tolerance, Facts* facts, float* keys) {
  TSLOSS_SHARED(P, tile, kMatrixTile * (kMatrixTile + 1));
  TSLOSS_SHARED(P, mirror, kMatrixTile * (kMatrixTile + 1));
  int ti, tj;
  tile_at(blockIdx.x, static_cast<int>((batch.points + kMatrixTile - 1) / kMatrixTile), &ti, &tj);
  const int x = threadIdx.x % kMatrixTile, y = threadIdx.x / kMatrixTile;
  constexpr int kStep = 256 / kMatrixTile;
  const int64_t c = blockIdx.y;
  const int n = batch.valid(c);
  const int64_t stride = batch.points, first = c * stride * stride;
  for (int r = y; r < kMatrixTile; r += kStep) {
    const int i = ti * kMatrixTile + r, j = tj * kMatrixTile + x;
    if (i < n && j < n) tile[r * (kMatrixTile + 1) + x] = distances[first + i * stride + j];
    const int k = tj * kMatrixTile + r, l = ti * kMatrixTile + x;
    if (k < n && l < n) mirror[r * (kMatrixTile + 1) + x] = distances[first + k * stride + l];
  }
  __syncthreads();
  u64 problem = kNoExact;
  for (int side = 0; side < (ti == tj ? 1 : 2); ++side) {
    const P* mine = side == 0 ? tile : mirror;
    const P* other = side == 0 ? mirror : tile;
    for (int r = y; r < kMatrixTile; r += kStep) {
      const int64_t i = (side == 0 ? ti : tj) * kMatrixTile + r;
      const int64_t j = (side == 0 ? tj : ti) * kMatrixTile + x;
      if (i >= n || j >= n) continue;
      const P a = mine[r * (kMatrixTile + 1) + x], b = other[x * (kMatrixTile + 1) + r];
      problem = min(problem, problem_of_entry(static_cast<double>(a), static_cast<double>(b),
                                              i == j, i < j, tolerance, i * stride + j));
      keys[first + i * stride + j] = ordered(static_cast<float>(mean_of(a, b)));
    }
  }
  if (problem != kNoExact) atomicMin(&facts[c].problem, problem);
}

// Clouds by number, for the trees.
template <class P>
struct MatrixClouds {
  const P* distances;

  __device__ MatrixCloud<P> cloud(int64_t c, const Batch& batch, const Facts&) const {
    return {distances + c * batch.points * batch.points, batch.points};
  }
  __device__ int64_t first(u64 problem, const Batch& batch) const {
    return problem == kNoExact ? -1 : entry(problem) / batch.points;
  }
  __device__ int64_t second(u64 problem, const Batch& batch) const {
    return problem == kNoExact ? -1 : entry(problem) % batch.points;
  }
  __device__ static int64_t entry(u64 problem) { return static_cast<int64_t>(problem << 2 >> 10); }
};

}  // namespace cuda
}  // namespace tsloss
