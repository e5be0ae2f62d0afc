// How the pairs and coordinates of a small cloud are shared out among the threads of a block.
//
// With m = ceil(n / 4), thread (a, b), a <= b, has the pairs of rows a + m r and b + m q, r and q
// from 0 to 3: neighbouring threads read neighbouring rows of shared memory, and no two meet in a
// bank. Where pairs are few, several threads have the same pairs and different coordinates.
#pragma once

#include "cuda/port.cuh"

namespace tsloss {
namespace cuda {

constexpr int kFusedCloud = 100;
constexpr int kFusedThreads = 352;

// Of the next chunk, what a thread holds while the block works on the last one, in bytes of numbers
// as they are in shared memory.
constexpr int kHeld = 64;

__host__ __device__ constexpr int rows_apart(int64_t n) { return static_cast<int>((n + 3) / 4); }
// Threads that all pairs of n points take.
__host__ __device__ constexpr int tiles_of(int64_t n) {
  return rows_apart(n) * (rows_apart(n) + 1) / 2;
}

struct Tiling {
  int slices;   // threads of the same pairs
  int width;    // coordinates of a chunk
  int threads;  // of a block

  // `bytes`: of a number in shared memory.
  constexpr Tiling(int64_t n, int bytes) : slices(8), width(0), threads(0) {
    const int tiles = tiles_of(n);
    while (slices > 1 && tiles * slices > kFusedThreads) slices /= 2;
    threads = (tiles * slices + 31) / 32 * 32;
    if (threads < 64) threads = 64;
    width = (slices < 2 ? 32 : 16 * slices) * 4 / bytes;
    while (4 * rows_apart(n) * width * bytes > kHeld * threads) width /= 2;
  }
};

// The numbers of two chunks in shared memory, or the sums that take their place.
inline int64_t bytes_of_staging(int64_t n, const Tiling& tiling, int bytes) {
  const int64_t chunks = int64_t{8} * rows_apart(n) * (tiling.width * bytes + 16);
  const int64_t sums = int64_t{64} * tiles_of(n);
  return chunks > sums ? chunks : sums;
}

constexpr bool fits() {
  for (int n = 1; n <= kFusedCloud; ++n) {
    for (int bytes = 4; bytes <= 8; bytes += 4) {
      const Tiling tiling(n, bytes);
      if (tiling.threads > kFusedThreads) return false;
      if (tiling.width * bytes < 16 * tiling.slices) return false;
    }
  }
  return true;
}
static_assert(fits(), "a block has room for every cloud, and each thread a part of a chunk");

}  // namespace cuda
}  // namespace tsloss
