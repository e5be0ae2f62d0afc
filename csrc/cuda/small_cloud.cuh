// Clouds of up to kFusedCloud points: a block reads the points, and makes the tree of their keys.
#pragma once

#include "cuda/block_keys.cuh"
#include "cuda/cloud_tree.cuh"

namespace tsloss {
namespace cuda {

// Sums of slices of the coordinates and what was seen there: parts (clouds, slices, 16 tiles),
// facts (clouds, slices). Grid: (slices, clouds).
template <class P, Term kTerm>
__global__ void __launch_bounds__(kFusedThreads)
    sum_slices(const P* points, Batch batch, Tiling tiling, int64_t slice, float* parts,
               Facts* facts) {
  using Cloud = PointCloud<P, kTerm>;
  TSLOSS_DYNAMIC_SHARED(memory);
  TSLOSS_SHARED(Facts, all, 1);
  const int64_t c = blockIdx.y, part = c * gridDim.x + blockIdx.x;
  const int n = batch.valid(c);
  if (threadIdx.x == 0) *all = {kNoExact, 0, kNoExact};  // block_sums has barriers
  if (n > 0) {
    const Cloud cloud{points + c * batch.points * batch.dim, batch.dim, 1, false};
    const int64_t begin = blockIdx.x * slice;
    float* sums = reinterpret_cast<float*>(memory);
    join_facts(block_sums(cloud, n, tiling, begin, min(begin + slice, batch.dim),
                          reinterpret_cast<typename Cloud::Staged*>(memory), sums),
               all);
    float* to = parts + part * 16 * tiles_of(batch.points);
    for (int e = static_cast<int>(threadIdx.x); e < 16 * tiles_of(n); e += blockDim.x) {
      to[e] = sums[e];
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) facts[part] = *all;
}

// Part 0 of each cloud becomes the sum of its parts. Grid: (16 tiles / 128, clouds).
__global__ void __launch_bounds__(128) add_parts(Batch batch, int parts, float* sums) {
  const int64_t c = blockIdx.y, stride = 16 * tiles_of(batch.points);
  const int e = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (e >= 16 * tiles_of(batch.valid(c))) return;
  float* at = sums + c * parts * stride + e;
  float sum = *at;
#pragma unroll 8
  for (int p = 1; p < parts; ++p) sum = __fadd_rn(sum, at[p * stride]);
  *at = sum;
}

// Sums that blocks before have left, and what those saw; or nothing, if `count` is 0.
struct Slices {
  const float* sums;   // (clouds, any, 16 tiles)
  const Facts* facts;  // (clouds, any)
  int stored;          // for each cloud
  int count;           // of sums that are not yet added
};

// Everything for clouds of up to kFusedCloud points, which are read once unless `slices` has the
// sums. `known`: facts, or null. A block for each cloud. Dynamic shared memory has the vertices,
// the keys, and two chunks of the points.
template <class P, Term kTerm, class D>
__global__ void __launch_bounds__(kFusedThreads, sizeof(P) == 8 || kTerm == Term::kAbsolute ? 1 : 2)
    small_cloud(PointClouds<P, kTerm> clouds, Batch batch, const Facts* known, Slices slices,
                Tiling tiling, Band band, Length how, D* deaths, int64_t* edges,
                int64_t* findings) {
  using S = typename PointCloud<P, kTerm>::Staged;
  TSLOSS_DYNAMIC_SHARED(memory);
  TSLOSS_SHARED(u32, found, 1);
  TSLOSS_SHARED(Facts, seen, 1);
  Vertex* v = reinterpret_cast<Vertex*>(memory);
  float* keys = reinterpret_cast<float*>(memory + bytes_of_vertices(batch.points));
  float* sums = keys + (batch.points * batch.points + 3) / 4 * 4;
  const int64_t c = blockIdx.x;
  const int n = batch.valid(c);
  const Bars<D> bars = bars_of(c, batch, deaths, edges);

  // The first time as the numbers are, and once more if they have to be scaled.
  bool there = slices.count > 0;
  double scale = 1;
  for (;;) {
    if (threadIdx.x == 0) *seen = {kNoExact, 0, kNoExact};
    __syncthreads();
    if (there) {
      const Facts* of_slice = slices.facts + c * slices.stored;
      u64 problem = kNoExact, largest = 0, smallest = kNoExact;
      for (int s = threadIdx.x; s < slices.stored; s += blockDim.x) {
        problem = min(problem, of_slice[s].problem);
        largest = max(largest, of_slice[s].largest);
        smallest = min(smallest, of_slice[s].smallest);
      }
      join_facts(problem, largest, smallest, seen);
    } else if (n > 0) {
      const PointCloud<P, kTerm> cloud{clouds.points + c * batch.points * batch.dim, batch.dim,
                                       scale, false};
      join_facts(block_sums(cloud, n, tiling, 0, batch.dim, reinterpret_cast<S*>(sums), sums),
                 seen);
    }
    __syncthreads();
    if (known || scale != 1 || scale_of(seen->largest) == 1 || seen->problem != kNoExact) break;
    scale = scale_of(seen->largest);
    there = false;
    __syncthreads();
  }
  const Facts facts = known ? known[c] : *seen;
  if (!begin_bars(bars, n, facts.problem, clouds.first(facts.problem, batch), -1,
                  findings + 3 * c)) {
    return;
  }
  const int64_t stride = 16 * tiles_of(batch.points);
  spread_keys(n, there ? slices.sums + c * slices.stored * stride : sums, there ? slices.count : 1,
              stride, keys);
  boruvka(clouds.cloud(c, batch, facts), keys, n, n, band, v, found);
  write_bars(clouds.cloud(c, batch, facts), n, how, v, bars, kNoExact, findings + 3 * c);
}

}  // namespace cuda
}  // namespace tsloss
