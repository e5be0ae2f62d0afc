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
  // The edges are read twice. If they change in between, places stay empty, which then hold edge 0.
  for (int k = threadIdx.x; k < ends; k += blockDim.x) incident[c * ends + k] = 0;
  __syncthreads();
  for (int k = threadIdx.x; k < ends; k += blockDim.x) {
    const int64_t vertex = e[k];
    if (vertex >= 0 && vertex < n) atomicAdd(&at[vertex], 1);
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
    if (mine && at[vertex] + place < begin[vertex + 1]) {
      incident[c * ends + at[vertex] + place] = (base + lane) / 2;
    }
    __syncwarp();
    if (mine && place == 0) at[vertex] += __popc(peers);
    __syncwarp();
  }
}

// 1 / x to the last digit or two, for 1 <= x < 2^60. A division would be a call of a function, for
// which the registers of the sums would have to be saved.
__device__ __forceinline__ float inverse_of(float x) {
  const float r = rough_inverse(x);
  return __fmaf_rn(r, __fmaf_rn(-x, r, 1), r);
}
__device__ __forceinline__ double inverse_of(double x) {
  double r = static_cast<double>(rough_inverse(static_cast<float>(x)));
  for (int step = 0; step < 2; ++step) r = fma(r, fma(-x, r, 1.0), r);
  return r;
}

// What an edge of length `death` gives to the coordinates of one end.
template <class D>
struct Slope {
  bool absolute;
  D weight;
  PowerOfTwo power{0};  // the difference of the coordinates is multiplied with both
  D at_tie;             // under the Manhattan metric

  __device__ Slope(Metric metric, D g, D death)
      : absolute(metric == Metric::kManhattan), weight(g), at_tie(death != death ? death : D{0}) {
    if (metric == Metric::kSqeuclidean) power = PowerOfTwo(1);  // 2 g may leave the range
    if (metric != Metric::kEuclidean) return;
    if (!(death > 0 && static_cast<double>(death) <= kLargestDouble)) {
      // Coincident points, points too far apart, and no numbers.
      weight = death != death ? death : D{0};
      return;
    }
    // g / death may leave the range though the gradient does not: divide by a number near 1.
    const int exponent = exponent_of(static_cast<double>(death));
    power = PowerOfTwo(-exponent);
    weight = g * inverse_of(power.times(death));
  }

  __device__ __forceinline__ D at(D x, D y) const {
    if (absolute) return x > y ? weight : x < y ? -weight : at_tie;
    return weight * power.times(x - y);
  }
};

__device__ __forceinline__ double add_warp(double sum) {
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
  return sum;
}

// What a gradient is added up in.
template <class D, bool kCosine>
struct Sums {
  using Type = D;
};
template <class D>
struct Sums<D, true> {
  using Type = double;
};

// x / |x| of a point that is not 0, coordinate by coordinate.
template <class P>
struct Direction {
  const P* x = nullptr;
  PowerOfTwo power{0};
  double norm = 0, inverse = 0;  // but for the power

  __device__ Direction() {}
  // For a whole warp.
  __device__ Direction(const P* point, int64_t dim) : x(point) {
    int exponent = 0;
    norm = scaled_norm(point, dim, &exponent);
    power = PowerOfTwo(-exponent);
    inverse = inverse_of(norm);
  }
  __device__ __forceinline__ double at(int64_t k) const {
    // The quotient to the last digit: parallel vectors have the same.
    const double a = power.times(static_cast<double>(widen(x[k])));
    const double q = a * inverse;
    return fma(fma(-q, norm, a), inverse, q);
  }
};

// Of the cosine distance at x, for unit vectors u of x and v of y, with d = |u - v|^2 / 2: the
// vector ((u - v) - d u) / |x|. No digits are lost where u and v are nearly parallel.
template <class P>
__device__ void add_cosine_slope(const Direction<P>& u, const Direction<P>& v, int64_t dim,
                                 double g, int64_t k_of_lane, double* sums, int count) {
  double death = 0;
  for (int64_t k = threadIdx.x % 32; k < dim; k += 32) {
    const double gap = u.at(k) - v.at(k);
    death += gap * gap;
  }
  death = 0.5 * add_warp(death);
  const double weight = g * u.inverse;
  for (int s = 0; s < count; ++s) {
    const int64_t k = k_of_lane + 32 * s;
    if (k >= dim) break;
    const double at = u.at(k);
    // The power last: alone it may leave the range, and 0 times that is NaN.
    sums[s] += u.power.times(weight * ((at - v.at(k)) - death * at));
  }
}

// For a whole warp, body(other end, place of the edge) for each edge at a vertex, in the order of
// the deaths: of `list`, or if that is null of all edges. A lane looks at an edge.
template <class F>
__device__ __forceinline__ void for_edges_at(int vertex, int points, const int64_t* edges,
                                             const int* list, int count, F&& body) {
  const int lane = threadIdx.x % 32;
  for (int base = 0; base < count; base += 32) {
    int edge = -1;
    int64_t other = -1;
    if (base + lane < count) {
      edge = list ? list[base + lane] : base + lane;
      const int64_t one = edges[2 * edge], two = edges[2 * edge + 1];
      if (one == vertex || two == vertex) other = one == vertex ? two : one;
      if (other >= points) other = -1;  // edges may have been written to since they were checked
    }
    for (u32 hits = __ballot_sync(kAll, other >= 0); hits; hits &= hits - 1) {
      const int from = __ffs(static_cast<int>(hits)) - 1;
      body(__shfl_sync(kAll, other, from), __shfl_sync(kAll, edge, from));
    }
  }
}

// grad_points (clouds, points, dim), overwritten whole. A warp for each vertex and slice of
// coordinates. `start` and `incident` are from find_incident_edges, or null. Grid: (any, slices,
// clouds).
template <class P, class D, bool kCosine>
__global__ void __launch_bounds__(128, 4)
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
    for (int i = (blockIdx.x * blockDim.x + threadIdx.x) / 32; i < n;
         i += static_cast<int>(gridDim.x * (blockDim.x / 32))) {
      const P* mine = x + i * dim;
      Direction<P> direction;
      if (kCosine) direction = Direction<P>(mine, dim);
      const int* first_of = start ? start + c * (n + 1) + i : nullptr;
      const int* list = start ? incident + 2 * c * bars + first_of[0] : nullptr;
      const int count = start ? first_of[1] - first_of[0] : static_cast<int>(bars);
      for (int64_t s = blockIdx.y; s < slices; s += gridDim.y) {
        const int64_t first = s * kGradientSlice + lane;
        typename Sums<D, kCosine>::Type sums[kPerLane] = {};
        D own[kPerLane] = {};
#pragma unroll
        for (int p = 0; p < kPerLane; ++p) {
          const int64_t k = first + 32 * p;
          if (!kCosine && k < dim) own[p] = static_cast<D>(widen(mine[k]));
        }
        for_edges_at(i, n, edges + 2 * c * bars, list, count, [&](int64_t j, int edge) {
          const P* y = x + j * dim;
          const D g = grad[c * bars + edge];
          if constexpr (kCosine) {
            add_cosine_slope(direction, Direction<P>(y, dim), dim, static_cast<double>(g), first,
                             sums, kPerLane);
          } else {
            const Slope<D> slope(metric, g, deaths[c * bars + edge]);
#pragma unroll
            for (int p = 0; p < kPerLane; ++p) {
              const int64_t k = first + 32 * p;
              if (k < dim) sums[p] += slope.at(own[p], static_cast<D>(widen(y[k])));
            }
          }
        });
#pragma unroll
        for (int p = 0; p < kPerLane; ++p) {
          const int64_t k = first + 32 * p;
          if (k < dim) out[(c * n + i) * dim + k] = narrow(static_cast<D>(sums[p]), P{});
        }
      }
    }
  }
}

}  // namespace cuda
}  // namespace tsloss
