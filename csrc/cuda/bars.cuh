// The bars of a cloud, where they belong, and what was found wrong with it.
#pragma once

#include "cuda/cloud.cuh"

namespace tsloss {
namespace cuda {

// Bars of one cloud, where they belong.
template <class D>
struct Bars {
  D* deaths;
  int64_t* edges;
  int64_t count;  // with padding

  __device__ __forceinline__ void put(int64_t at, D death, int64_t i, int64_t j) const {
    deaths[at] = death;
    edges[2 * at] = i;
    edges[2 * at + 1] = j;
  }
  // A path, that a gradient can be routed through as NaN; then the padding.
  __device__ __forceinline__ void fill(int64_t begin, int64_t valid, int64_t rank,
                                       int64_t ranks) const {
    for (int64_t k = begin + rank; k < count; k += ranks) fill_one(k, valid);
  }
  __device__ __forceinline__ void fill_one(int64_t k, int64_t valid) const {
    if (k < valid) {
      put(k, static_cast<D>(double_of(0x7ff8ull << 48)), k, k + 1);
    } else {
      put(k, D{0}, -1, -1);
    }
  }
};

template <class D>
__device__ __forceinline__ Bars<D> bars_of(int64_t cloud, const Batch& batch, D* deaths,
                                           int64_t* edges) {
  return {deaths + cloud * batch.bars(), edges + 2 * cloud * batch.bars(), batch.bars()};
}

__device__ __forceinline__ void put_finding(int64_t* finding, int64_t what, int64_t i, int64_t j) {
  finding[0] = what;
  finding[1] = i;
  finding[2] = j;
}

__device__ __forceinline__ int64_t what_of(u64 problem) {
  return problem == kNoExact ? 0 : static_cast<int64_t>(problem & 0xff);
}

// What is written before there is a tree: findings, padding, and NaN for a cloud that can have
// none. Returns whether there will be one.
template <class D>
__device__ bool begin_bars(const Bars<D>& bars, int n, u64 problem, int64_t first, int64_t second,
                           int64_t* finding) {
  const bool good = has_tree(problem);
  if (threadIdx.x == 0) put_finding(finding, what_of(problem), first, second);
  bars.fill(good ? max(n - 1, 0) : 0, n - 1, threadIdx.x, blockDim.x);
  return good && n > 1;
}

}  // namespace cuda
}  // namespace tsloss
