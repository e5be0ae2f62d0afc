// The gradient routed through the critical edges: each vertex sums its edges in the order of their
// deaths, so the result does not depend on the schedule, and no atomics are needed.
#pragma once

#include "cuda/prepare.cuh"
#include "tsloss.h"

namespace tsloss {
namespace cuda {

constexpr int kIncidenceThreads = 1024;
constexpr int64_t kGradientSlice = 256;  // coordinates of a warp

// start (clouds, points + 1), incident (clouds, 2 bars): the edges at vertex i, ascending, are
// incident[start[i] .. start[i + 1]). `next` (clouds, points) is scratch. A block for each cloud.
//
// A warp owns a range of vertices and reads all edges in their order, 32 ends at a time: lanes that
// hold the same vertex find each other and take places in the order of the lanes.
__global__ void __launch_bounds__(kIncidenceThreads)
    find_incident_edges(const int64_t* edges, Batch batch, int* start, int* next, int* incident) {
  TSLOSS_SHARED(int, sums, 32);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int n = static_cast<int>(batch.points);
  const int ends = 2 * static_cast<int>(batch.bars());
  const int64_t c = blockIdx.x;
  const int64_t* e = edges + c * ends;
  int* at = next + c * n;
  int* begin = start + c * (n + 1);
  for (int i = threadIdx.x; i < n; i += blockDim.x) at[i] = 0;
  __syncthreads();
  for (int k = threadIdx.x; k < ends; k += blockDim.x) {
    if (e[k] >= 0 && e[k] < n) atomicAdd(&at[e[k]], 1);
  }
  __syncthreads();
  // Exclusive sums: a contiguous part for each thread, of threads in a warp, of warps.
  const int part = (n + static_cast<int>(blockDim.x) - 1) / static_cast<int>(blockDim.x);
  const int first = min(static_cast<int>(threadIdx.x) * part, n), last = min(first + part, n);
  int own = 0;
  for (int i = first; i < last; ++i) own += at[i];
  int sum = own;
  for (int step = 1; step < 32; step *= 2) {
    const int below = __shfl_up_sync(kAll, sum, step);
    if (lane >= step) sum += below;
  }
  if (lane == 31) sums[warp] = sum;
  __syncthreads();
  int before = sum - own;
  for (int w = 0; w < warp; ++w) before += sums[w];
  for (int i = first; i < last; ++i) {
    const int count = at[i];
    begin[i] = at[i] = before;
    before += count;
  }
  if (last == n && first < n) begin[n] = before;
  __syncthreads();
  const int range = (n + warps - 1) / warps;
  const int low = warp * range, high = min(low + range, n);
  for (int base = 0; base < ends && low < high; base += 32) {
    const int64_t vertex = base + lane < ends ? e[base + lane] : -1;
    const bool mine = vertex >= low && vertex < high;
    const u32 active = __ballot_sync(kAll, mine);
    if (!active) continue;
    const u32 peers = __match_any_sync(kAll, mine ? static_cast<int>(vertex) : -1 - lane);
    const int place = __popc(peers & ((1u << lane) - 1));
    if (mine) incident[c * ends + at[vertex] + place] = (base + lane) / 2;
    __syncwarp();
    if (mine && place == 0) at[vertex] += __popc(peers);
    __syncwarp();
  }
}

// What an edge gives to one coordinate of its point x, the other end being y.
template <class P, class D>
__device__ __forceinline__ D slope(Metric metric, D g, D death, D x, D y) {
  if (metric == Metric::kManhattan) return x > y ? g : x < y ? -g : death != death ? death : D{0};
  if (metric == Metric::kSqeuclidean) return 2 * g * (x - y);
  if (death == 0) return 0;  // coincident points
  const D weight = g / death;
  const bool small = fabs(death) < D(sizeof(D) == 4 ? 1.17549435e-38 : 2.2250738585072014e-308);
  if (!small && (fabs(weight) <= D(sizeof(D) == 4 ? 3.40282347e+38 : 1.7976931348623157e308) ||
                 !(fabs(g) <= D(sizeof(D) == 4 ? 3.40282347e+38 : 1.7976931348623157e308)))) {
    return weight * (x - y);
  }
  return static_cast<D>(
      static_cast<double>(g) *
      ((static_cast<double>(x) - static_cast<double>(y)) / static_cast<double>(death)));
}

__device__ __forceinline__ double add_warp(double sum) {
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
  return sum;
}

// Of the cosine distance at x, for unit vectors u of x and v of y, with d = |u - v|^2 / 2: the
// vector ((u - v) - d u) / |x|. No digits are lost where u and v are nearly parallel.
template <class P, class D>
__device__ void add_cosine_slope(const P* x, double norm_x, const P* y, int64_t dim, double g,
                                 int64_t k_of_lane, double* sums, int count) {
  const double norm_y = normalise<P>(y, dim, nullptr);
  double death = 0;
  for (int64_t k = threadIdx.x % 32; k < dim; k += 32) {
    const double gap = widen(x[k]) / norm_x - widen(y[k]) / norm_y;
    death += gap * gap;
  }
  death = 0.5 * add_warp(death);
  for (int s = 0; s < count; ++s) {
    const int64_t k = k_of_lane + 32 * s;
    if (k >= dim) break;
    const double u = widen(x[k]) / norm_x, v = widen(y[k]) / norm_y;
    sums[s] += g / norm_x * ((u - v) - death * u);
  }
}

// grad_points (clouds, points, dim), overwritten whole. A warp for each vertex and slice of
// coordinates. Grid: (any, slices, clouds).
template <class P, class D>
__global__ void __launch_bounds__(128)
    route_gradient(Metric metric, const D* grad, const P* points, const D* deaths,
                   const int64_t* edges, Batch batch, const int* start, const int* incident,
                   P* out) {
  constexpr int kPerLane = static_cast<int>(kGradientSlice / 32);
  const int lane = threadIdx.x % 32;
  const int n = static_cast<int>(batch.points);
  const int64_t bars = batch.bars(), dim = batch.dim;
  const int64_t slices = (dim + kGradientSlice - 1) / kGradientSlice;
  for (int64_t c = blockIdx.z; c < batch.clouds; c += gridDim.z) {
    const P* x = points + c * n * dim;
    const int64_t* e = edges + 2 * c * bars;
    for (int i = (blockIdx.x * blockDim.x + threadIdx.x) / 32; i < n;
         i += static_cast<int>(gridDim.x * (blockDim.x / 32))) {
      const double norm = metric == Metric::kCosine ? normalise<P>(x + i * dim, dim, nullptr) : 0;
      for (int64_t s = blockIdx.y; s < slices; s += gridDim.y) {
        const int64_t first = s * kGradientSlice + lane;
        D sums[kPerLane] = {};
        double wide[kPerLane] = {};
        for (int q = start[c * (n + 1) + i]; q < start[c * (n + 1) + i + 1]; ++q) {
          const int edge = incident[2 * c * bars + q];
          const int64_t j = e[2 * edge] == i ? e[2 * edge + 1] : e[2 * edge];
          const D g = grad[c * bars + edge], death = deaths[c * bars + edge];
          const P* y = x + j * dim;
          if (metric == Metric::kCosine) {
            add_cosine_slope<P, D>(x + i * dim, norm, y, dim, static_cast<double>(g), first, wide,
                                   kPerLane);
            continue;
          }
#pragma unroll
          for (int p = 0; p < kPerLane; ++p) {
            const int64_t k = first + 32 * p;
            if (k < dim) {
              sums[p] += slope<P, D>(metric, g, death, static_cast<D>(widen(x[i * dim + k])),
                                     static_cast<D>(widen(y[k])));
            }
          }
        }
#pragma unroll
        for (int p = 0; p < kPerLane; ++p) {
          const int64_t k = first + 32 * p;
          const D sum = metric == Metric::kCosine ? static_cast<D>(wide[p]) : sums[p];
          if (k < dim) out[(c * n + i) * dim + k] = narrow(sum, P{});
        }
      }
    }
  }
}

}  // namespace cuda
}  // namespace tsloss
