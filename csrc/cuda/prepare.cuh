// Looks at the points once: what is wrong with them, how large they are, and their unit vectors.
#pragma once

#include "cuda/cloud.cuh"

namespace tsloss {
namespace cuda {

__global__ void __launch_bounds__(256) clear_facts(int64_t clouds, Facts* facts) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c < clouds) facts[c] = {kNoExact, 0, kNoExact};
}

// |x| / 2^exponent, which is at least 1, by a warp, added up in the order of the CPU core. 0: x is
// 0.
template <class P>
__device__ double scaled_norm(const P* x, int64_t dim, int* exponent) {
  const int lane = threadIdx.x % 32;
  double largest = 0;
  for (int64_t k = lane; k < dim; k += 32) {
    largest = fmax(largest, fabs(static_cast<double>(widen(x[k]))));
  }
  for (int step = 16; step > 0; step /= 2) {
    largest = fmax(largest, __shfl_xor_sync(kAll, largest, step));
  }
  if (largest == 0) return 0;
  *exponent = exponent_of(largest);
  const PowerOfTwo scale(-*exponent);
  double sum = 0;
  for (int64_t k = lane; lane < 8 && k < dim; k += 8) {
    const double scaled = scale.times(static_cast<double>(widen(x[k])));
    sum = __dadd_rn(sum, __dmul_rn(scaled, scaled));
  }
  double total = __shfl_sync(kAll, sum, 0);
  for (int l = 1; l < 8; ++l) total = __dadd_rn(total, __shfl_sync(kAll, sum, l));
  return __dsqrt_rn(total);
}

// x / |x| by a warp. Returns whether x has a direction.
template <class P>
__device__ bool normalise(const P* x, int64_t dim, double* unit) {
  int exponent = 0;
  const double norm = scaled_norm(x, dim, &exponent);
  const PowerOfTwo scale(-exponent);
  for (int64_t k = threadIdx.x % 32; norm > 0 && k < dim; k += 32) {
    unit[k] = scale.times(static_cast<double>(widen(x[k]))) / norm;
  }
  return norm > 0;
}

// facts (clouds), and units (clouds, points, dim) unless null. A warp for each point. Grid: (any,
// clouds).
template <class P>
__global__ void __launch_bounds__(256, 3)
    look_at_points(const P* points, Batch batch, Facts* facts, double* units) {
  // Squares leave the range of exact keys for numbers of double alone; see Facts.
  constexpr bool kAsksForSmallest = sizeof(P) == 8;
  const int lane = threadIdx.x % 32;
  for (int64_t c = blockIdx.y; c < batch.clouds; c += gridDim.y) {
    const int n = batch.valid(c);
    u64 largest = 0, smallest = kNoExact, problem = kNoExact;
    for (int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32; i < n;
         i += static_cast<int64_t>(gridDim.x) * (blockDim.x / 32)) {
      const int64_t at = (c * batch.points + i) * batch.dim;
      u64 most = 0;
      for (int64_t k = lane; k < batch.dim; k += 32) {
        const u64 bits = bits_of(fabs(static_cast<double>(widen(points[at + k]))));
        most = bits > most ? bits : most;
        if (kAsksForSmallest && bits != 0 && bits < smallest) smallest = bits;
      }
      for (int step = 16; step > 0; step /= 2) {
        const u64 other = __shfl_xor_sync(kAll, most, step);
        most = other > most ? other : most;
      }
      int what = most >= 0x7ffull << 52 ? kNonFinite : 0;
      if (!what && units && batch.dim > 0) {
        if (!normalise(points + at, batch.dim, units + at)) what = kZeroVector;
      }
      if (what && problem == kNoExact) problem = static_cast<u64>(i) << 8 | what;
      largest = most > largest ? most : largest;
    }
    if (problem != kNoExact && lane == 0) atomicMin(&facts[c].problem, problem);
    if (units) largest = bits_of(1.0);
    if (largest != 0 && lane == 0) atomicMax(&facts[c].largest, largest);
    if constexpr (kAsksForSmallest) {
      // All lanes meet at one address, so the warp takes its minimum first.
      smallest = least_of_warp(smallest);
      if (smallest != kNoExact && lane == 0) atomicMin(&facts[c].smallest, smallest);
    }
  }
}

}  // namespace cuda
}  // namespace tsloss
