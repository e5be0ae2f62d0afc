// The minimum spanning tree of a cloud of up to kSmallCloud points, by one block: Boruvka's
// algorithm. In a round each component finds its least edge to another component; all these edges
// are in the tree, and the components that they join become one. Rounds at least halve their
// number.
//
// Edges are compared by (exact key, smaller point, larger point), a strict order, so the tree is
// unique and components can meet in pairs only: both then chose the same edge. Fast keys choose
// wherever only one edge of a component is within the rounding band of its least; else the exact
// keys of those within are computed.
#pragma once

#include "cuda/bars.cuh"

namespace tsloss {
namespace cuda {

constexpr int kSmallCloud = 512;
constexpr int kTreeThreads = 512;

// What a block knows of a vertex, or of the component that is named after it.
struct Vertex {
  u64 exact_of_row;  // least exact key of a contested row
  u64 exact;         // of the component
  u32 least_of_row;  // least fast key from this vertex to another component
  u32 least;         // of the component
  u32 edges;         // of the component: how many are within the band
  u32 pick;          // the least edge of the component
  u32 edge;          // found edge of the tree; not that of this vertex
  int partner;       // end of the least edge of this row
  int component;     // of this vertex
  int next;          // the component that the picked edge leads to
};

__host__ __device__ inline int64_t bytes_of_vertices(int64_t n) {
  return (n * static_cast<int64_t>(sizeof(Vertex)) + 15) / 16 * 16;
}

__device__ __forceinline__ u32 edge_of(int i, int j) {
  return i < j ? u32(i) << 16 | u32(j) : u32(j) << 16 | u32(i);
}

// The rows of a warp: its lanes look at the columns of a row together.
template <class Cloud>
struct Round {
  const Cloud& cloud;
  const float* keys;
  int64_t stride;
  Vertex* v;
  int n;
  Band band;

  __device__ __forceinline__ bool leads_out(int row, int j) const {
    return j < n && v[j].component != v[row].component;
  }
  __device__ __forceinline__ u32 key(int row, int j) const {
    return __float_as_uint(keys[row * stride + j]);
  }
  __device__ __forceinline__ u32 bound(int row) const { return band.of(v[v[row].component].least); }

  __device__ void find_least(int row, int lane) const {
    u32 least = kNoKey;
    for (int j = lane; j < n; j += 32) {
      if (leads_out(row, j)) least = min(least, key(row, j));
    }
    least = __reduce_min_sync(kAll, least);
    if (lane == 0) {
      v[row].least_of_row = least;
      atomicMin(&v[v[row].component].least, least);
    }
  }

  __device__ void count_contenders(int row, int lane) const {
    const u32 limit = bound(row);
    if (v[row].least_of_row > limit) return;
    u32 count = 0;
    int first = -1;
    for (int base = 0; base < n; base += 32) {
      const int j = base + lane;
      const u32 hits = __ballot_sync(kAll, leads_out(row, j) && key(row, j) <= limit);
      if (first < 0 && hits) first = base + __ffs(static_cast<int>(hits)) - 1;
      count += __popc(hits);
    }
    if (lane == 0) {
      v[row].partner = first;
      atomicAdd(&v[v[row].component].edges, count);
    }
  }

  __device__ void decide(int row, int lane) const {
    const u32 limit = bound(row);
    if (v[row].least_of_row > limit) return;
    const int c = v[row].component;
    if (v[c].edges == 1) {
      if (lane == 0) v[c].pick = edge_of(row, v[row].partner);
      return;
    }
    Nearest<Cloud> nearest{cloud, row};
    for (int base = 0; base < n; base += 32) {
      const int j = base + lane;
      nearest.take(base, __ballot_sync(kAll, leads_out(row, j) && key(row, j) <= limit));
    }
    if (lane == 0) {
      v[row].exact_of_row = nearest.exact;
      v[row].partner = nearest.partner;
      atomicMin(&v[c].exact, nearest.exact);
    }
  }

  __device__ void settle(int row) const {
    const int c = v[row].component;
    if (v[row].least_of_row <= bound(row) && v[c].edges > 1 && v[row].exact_of_row == v[c].exact) {
      atomicMin(&v[c].pick, edge_of(row, v[row].partner));
    }
  }

  __device__ void lead(int c) const {
    const int i = static_cast<int>(v[c].pick >> 16), j = static_cast<int>(v[c].pick & 0xffff);
    v[c].next = v[i].component == c ? v[j].component : v[i].component;
  }

  // Each component chooses the next one, so all ways end in circles, and the smallest component of
  // a circle names the result. Circles have two components, unless another program writes to the
  // points meanwhile, so that keys contradict each other.
  __device__ int root(int c) const {
    for (int step = 0; step < n; ++step) {
      const int next = v[c].next;
      if (v[next].next == c) return min(c, next);
      c = next;
    }
    int least = c;
    for (int at = v[c].next; at != c; at = v[at].next) least = min(least, at);
    return least;
  }
};

// The edges of the tree in v[..].edge, in any order. keys: both triangles. Called by whole blocks,
// with the vertices to themselves; `found` is in shared memory.
template <class Cloud>
__device__ void boruvka(const Cloud& cloud, const float* keys, int64_t stride, int n, Band band,
                        Vertex* v, u32* found) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const Round<Cloud> round{cloud, keys, stride, v, n, band};
  if (threadIdx.x == 0) *found = 0;
  for (int c = threadIdx.x; c < n; c += blockDim.x) v[c].component = c;
  for (;;) {
    for (int c = threadIdx.x; c < n; c += blockDim.x) {
      v[c].exact = kNoExact;
      v[c].least = kNoKey;
      v[c].edges = 0;
      v[c].pick = kAll;
    }
    __syncthreads();
    if (*found + 1 >= static_cast<u32>(n)) break;
    for (int row = warp; row < n; row += warps) round.find_least(row, lane);
    __syncthreads();
    for (int row = warp; row < n; row += warps) round.count_contenders(row, lane);
    __syncthreads();
    for (int row = warp; row < n; row += warps) round.decide(row, lane);
    __syncthreads();
    for (int row = threadIdx.x; row < n; row += blockDim.x) round.settle(row);
    __syncthreads();
    for (int c = threadIdx.x; c < n; c += blockDim.x) {
      if (v[c].component == c) round.lead(c);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
      // All components but the root add their edge, so no edge closes a cycle, even if keys change.
      const int c = v[i].component, root = round.root(c);
      if (c == i && c != root) v[atomicAdd(found, 1u)].edge = v[c].pick;
      v[i].component = root;
    }
  }
}

// Lengths of the found edges, and the edges in the order of (death, smaller point, larger point).
// `finding` of a cloud without a problem: an overflow, if there is one.
template <class Cloud, class D>
__device__ void write_bars(const Cloud& cloud, int n, Length how, Vertex* v, const Bars<D>& bars,
                           u64 problem, int64_t* finding) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int pair = warp; 2 * pair < n - 1; pair += warps) {
    const int at = min(2 * pair + lane / 16, n - 2);
    const u32 e = v[at].edge;
    const u64 exact = cloud.exact(static_cast<int>(e >> 16), static_cast<int>(e & 0xffff));
    const D death = static_cast<D>(cloud.length(exact, how));
    if (lane % 16 == 0 && at == 2 * pair + lane / 16) v[at].exact = bits_of(death);
  }
  __syncthreads();
  for (int a = threadIdx.x; a < n - 1; a += blockDim.x) {
    const u64 death = v[a].exact;
    const u32 edge = v[a].edge;
    int rank = 0;
    for (int b = 0; b < n - 1; ++b) {
      rank += v[b].exact < death || (v[b].exact == death && v[b].edge < edge);
    }
    const int i = static_cast<int>(edge >> 16), j = static_cast<int>(edge & 0xffff);
    bars.put(rank, static_cast<D>(double_of(death)), i, j);
    if (rank == n - 2 && death >= kInfiniteBits && problem == kNoExact) {
      put_finding(finding, kOverflow, i, j);
    }
  }
}

// keys: (clouds, cloud_stride) with fast keys (points, points) at the beginning of each cloud's.
// in_shared: whether they are copied to dynamic shared memory, which has room for the vertices and,
// if so, for them. A block for each cloud. `Clouds` makes a cloud of its number.
template <class Clouds, class D>
__global__ void __launch_bounds__(kTreeThreads, 1)
    cloud_tree(Clouds clouds, Batch batch, const Facts* facts, const float* keys,
               int64_t cloud_stride, bool in_shared, Band band, Length how, D* deaths,
               int64_t* edges, int64_t* findings) {
  TSLOSS_DYNAMIC_SHARED(memory);
  TSLOSS_SHARED(u32, found, 1);
  Vertex* v = reinterpret_cast<Vertex*>(memory);
  float* copy = reinterpret_cast<float*>(memory + bytes_of_vertices(batch.points));
  const int64_t c = blockIdx.x;
  const int n = batch.valid(c);
  const Bars<D> bars = bars_of(c, batch, deaths, edges);
  const u64 problem = facts[c].problem;
  if (!begin_bars(bars, n, problem, clouds.first(problem, batch), clouds.second(problem, batch),
                  findings + 3 * c)) {
    return;
  }
  const auto cloud = clouds.cloud(c, batch, facts[c]);
  const float* mine = keys + c * cloud_stride;
  if (in_shared) {
    for (int t = threadIdx.x; t < n * n; t += blockDim.x) {
      copy[t] = mine[t / n * batch.points + t % n];
    }
  }
  boruvka(cloud, in_shared ? copy : mine, in_shared ? n : batch.points, n, band, v, found);
  write_bars(cloud, n, how, v, bars, problem, findings + 3 * c);
}

}  // namespace cuda
}  // namespace tsloss
