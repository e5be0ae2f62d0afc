// The minimum spanning trees of clouds of more than kSmallCloud points, by the whole device:
// Boruvka's algorithm in rounds of three kernels, by the same order of edges as cloud_tree.cuh.
//
// The columns of a row are cut into segments. `bounds` holds for each row and segment a key below
// which no edge to another component lies. As components only grow, a bound stays true once it is
// found, so a row looks again only at the segments whose bounds are the least, and raises them: a
// few segments of a row in each round instead of all its columns.
//
// Where the memory for all keys is had (plan.cuh) they are stored, else computed again.
#pragma once

#include "cuda/cloud_tree.cuh"

namespace tsloss {
namespace cuda {

constexpr int kJoinThreads = 1024;
constexpr int kRankThreads = 128;

struct Link {
  u64 edge;   // smaller point << 32 | larger point
  u64 exact;  // its exact key
};

// Of a component, which is named after one of its points.
struct Component {
  u64 exact;  // least exact key to another
  u64 pick;   // the edge with it
  u32 least;  // least fast key that was seen
};

// Trees of a batch while they grow: (clouds, points) each, but for `found` (clouds) and `bounds`
// (clouds, points, segments).
struct Forest {
  int* component;     // of a point
  Component* of;      // by name
  u32* least_of_row;  // no edge of this point to another component has a fast key below
  u64* exact_of_row;  // kNoExact where a row is not contested
  int* partner;       // with exact_of_row
  int* next;          // the component that one joins
  int* jump;          // scratch
  Link* links;        // edges of the tree
  u32* found;         // how many; all clouds of which nothing is asked look finished
  u32* bounds;
  int64_t points, segments, width;

  // The part of one cloud.
  __device__ Forest at(int64_t c) const {
    const int64_t first = c * points;
    return {component + first,
            of + first,
            least_of_row + first,
            exact_of_row + first,
            partner + first,
            next + first,
            jump + first,
            links + first,
            found + c,
            bounds + first * segments,
            points,
            segments,
            width};
  }
  __device__ __forceinline__ bool finished(int n) const {
    return static_cast<int64_t>(*found) + 1 >= n;
  }
  __device__ __forceinline__ u32* bounds_of(int64_t row) const { return bounds + row * segments; }
};

// Grid: (any, clouds).
__global__ void __launch_bounds__(256, 4)
    clear_forest(Batch batch, const Facts* facts, Forest forests) {
  for (int64_t c = blockIdx.y; c < batch.clouds; c += gridDim.y) {
    const Forest forest = forests.at(c);
    const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = first; i < batch.points; i += step) {
      forest.component[i] = static_cast<int>(i);
      forest.of[i] = {kNoExact, kNoExact, kNoKey};
    }
    for (int64_t t = first; t < batch.points * forest.segments; t += step) {
      forest.bounds[t] = kNoKey;
    }
    if (first == 0) {
      *forest.found = facts[c].problem == kNoExact ? 0 : static_cast<u32>(batch.points);
    }
  }
}

// Keys (clouds, points, points) in memory.
struct StoredKeys {
  const float* keys;
  int64_t cloud_stride, stride;

  __device__ StoredKeys of(int64_t c, const Batch&, const Facts&) const {
    return {keys + c * cloud_stride, cloud_stride, stride};
  }
  // For whole warps: the key of column base + lane, or kNoKey where `wanted` lacks the lane.
  __device__ __forceinline__ u32 row_keys(int row, int base, u32 wanted) const {
    const int lane = threadIdx.x % 32;
    return wanted >> lane & 1 ? __float_as_uint(keys[row * stride + base + lane]) : kNoKey;
  }
};

// Keys from the points, four at a time.
template <class P, Term kTerm>
struct ComputedKeys {
  const P* points;
  bool ranged;

  struct Source {
    PointCloud<P, kTerm> cloud;

    __device__ u32 row_keys(int row, int base, u32 wanted) const {
      const int lane = threadIdx.x % 32;
      u32 mine = kNoKey;
      while (wanted) {
        int at[4];
        float sum[4] = {};
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          at[q] = wanted ? __ffs(static_cast<int>(wanted)) - 1 : at[0];
          wanted &= wanted - 1;
        }
        for (int64_t k = lane; k < cloud.dim; k += 32) {
          const auto x = cloud.staged(row, k);
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            const float d = static_cast<float>(x - cloud.staged(base + at[q], k));
            sum[q] =
                kTerm == Term::kSquared ? __fmaf_rn(d, d, sum[q]) : __fadd_rn(sum[q], fabsf(d));
          }
        }
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          for (int step = 16; step > 0; step /= 2) {
            sum[q] = __fadd_rn(sum[q], __shfl_xor_sync(kAll, sum[q], step));
          }
          if (lane == at[q]) mine = __float_as_uint(sum[q]);
        }
      }
      return mine;
    }
  };

  __device__ Source of(int64_t c, const Batch& batch, const Facts& facts) const {
    return {point_cloud<P, kTerm>(points, batch, c, facts, ranged)};
  }
};

// bounds of stored keys. A warp for each row. Grid: (any, clouds).
__global__ void __launch_bounds__(256, 4)
    bound_segments(Batch batch, StoredKeys stored, Forest forests) {
  const int lane = threadIdx.x % 32;
  for (int64_t c = blockIdx.y; c < batch.clouds; c += gridDim.y) {
    const Forest forest = forests.at(c);
    const int n = batch.valid(c);
    if (forest.finished(n)) continue;
    for (int64_t row = (blockIdx.x * blockDim.x + threadIdx.x) / 32; row < n;
         row += static_cast<int64_t>(gridDim.x) * (blockDim.x / 32)) {
      const float* keys = stored.keys + c * stored.cloud_stride + row * stored.stride;
      for (int64_t s = 0; s < forest.segments; ++s) {
        u32 least = kNoKey;
        for (int64_t j = s * forest.width + lane; j < min((s + 1) * forest.width, int64_t{n});
             j += 32) {
          if (j != row) least = min(least, __float_as_uint(keys[j]));
        }
        least = __reduce_min_sync(kAll, least);
        if (lane == 0) forest.bounds_of(row)[s] = least;
      }
    }
  }
}

// bounds by way of keys that nobody stores. Grid: (tiles of the upper triangle, clouds).
template <class P, Term kTerm>
__global__ void __launch_bounds__(kTileThreads)
    bound_tiles(const P* points, Batch batch, const Facts* facts, bool ranged, Forest forests) {
  using Cloud = PointCloud<P, kTerm>;
  using S = typename Cloud::Staged;
  TSLOSS_SHARED(Packed<S>, shared, 2 * kTile * kPitch<S> / (16 / sizeof(S)));
  S* a = reinterpret_cast<S*>(shared);
  S* b = a + kTile * kPitch<S>;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  int ti, tj;
  tile_at(blockIdx.x, static_cast<int>((batch.points + kTile - 1) / kTile), &ti, &tj);
  for (int64_t c = blockIdx.y; c < batch.clouds; c += gridDim.y) {
    const Forest forest = forests.at(c);
    const int n = batch.valid(c);
    if (tj * kTile >= n || forest.finished(n)) continue;
    const Cloud cloud = point_cloud<P, kTerm>(points, batch, c, facts[c], ranged);
    const auto row = [=](int r) { return ti * kTile + r < n ? ti * kTile + r : -1; };
    const auto column = [=](int r) { return tj * kTile + r < n ? tj * kTile + r : -1; };
    float sum[4][4] = {};
    tile_keys(cloud, row, column, 0, batch.dim, a, b, sum);
    u32 of_row[4] = {kNoKey, kNoKey, kNoKey, kNoKey},
        of_column[4] = {kNoKey, kNoKey, kNoKey, kNoKey};
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int i = row(y + 16 * r);
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int j = column(x + 16 * q);
        if (i < 0 || j < 0 || i == j) continue;
        of_row[r] = min(of_row[r], __float_as_uint(sum[r][q]));
        of_column[q] = min(of_column[q], __float_as_uint(sum[r][q]));
      }
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      for (int step = 8; step > 0; step /= 2) {
        of_row[r] = min(of_row[r], __shfl_xor_sync(kAll, of_row[r], step));
      }
      const int i = row(y + 16 * r);
      if (x == 0 && i >= 0) {
        atomicMin(&forest.bounds_of(i)[tj * kTile / forest.width], of_row[r]);
      }
      // The mirror image of a tile on the diagonal is in the tile.
      of_column[r] = min(of_column[r], __shfl_xor_sync(kAll, of_column[r], 16));
      const int j = column(x + 16 * r);
      if (ti != tj && y % 2 == 0 && j >= 0) {
        atomicMin(&forest.bounds_of(j)[ti * kTile / forest.width], of_column[r]);
      }
    }
  }
}

// What a warp does for a row of one cloud.
template <class Source>
struct Row {
  const Source& source;
  const Forest& forest;
  int row, n;
  Band band;

  __device__ __forceinline__ int component() const { return forest.component[row]; }
  // The keys of 32 columns, or kNoKey within the component.
  __device__ u32 keys(int base) const {
    const int j = base + static_cast<int>(threadIdx.x % 32);
    const bool out = j < n && forest.component[j] != component();
    return source.row_keys(row, base, __ballot_sync(kAll, out));
  }
  __device__ __forceinline__ int begin(int64_t s) const {
    return static_cast<int>(s * forest.width);
  }
  __device__ __forceinline__ int end(int64_t s) const {
    return static_cast<int>(min((s + 1) * forest.width, int64_t{n}));
  }

  // Raises the least bounds until a key is below them all, or the row cannot matter to its
  // component. Each lane has segments of its own.
  __device__ void find_least() const {
    const int lane = threadIdx.x % 32;
    u32* bounds = forest.bounds_of(row);
    Component* mine = forest.of + component();
    u32 best = kNoKey, least;
    for (;;) {
      u32 low = kNoKey;
      int at = 0;
      for (int s = lane; s < forest.segments; s += 32) {
        if (bounds[s] < low) low = bounds[s], at = s;
      }
      least = __reduce_min_sync(kAll, low);
      if (least >= best) break;
      const u32 seen = __shfl_sync(kAll, peek(&mine->least), 0);
      if (seen != kNoKey && least > band.of(seen)) break;
      const int owner = __ffs(static_cast<int>(__ballot_sync(kAll, low == least))) - 1;
      at = __shfl_sync(kAll, at, owner);
      u32 key = kNoKey;
      for (int base = begin(at); base < end(at); base += 32) key = min(key, keys(base));
      key = __reduce_min_sync(kAll, key);
      if (lane == owner) bounds[at] = key;
      best = min(best, key);
    }
    if (lane == 0) {
      forest.least_of_row[row] = min(best, least);
      if (best != kNoKey) atomicMin(&mine->least, best);
    }
  }

  // The least edge by exact keys, where it may be the component's.
  template <class Cloud>
  __device__ void decide(const Cloud& cloud) const {
    const int lane = threadIdx.x % 32;
    const u32* bounds = forest.bounds_of(row);
    Component* mine = forest.of + component();
    const u32 limit = band.of(mine->least);
    Nearest<Cloud> nearest{cloud, row};
    if (forest.least_of_row[row] <= limit) {
      for (int first = 0; first < forest.segments; first += 32) {
        const bool near = first + lane < forest.segments && bounds[first + lane] <= limit;
        for (u32 left = __ballot_sync(kAll, near); left && nearest.exact != 0; left &= left - 1) {
          const int s = first + __ffs(static_cast<int>(left)) - 1;
          for (int base = begin(s); base < end(s); base += 32) {
            nearest.take(base, __ballot_sync(kAll, keys(base) <= limit));
          }
        }
      }
    }
    if (lane == 0) {
      forest.exact_of_row[row] = nearest.exact;
      forest.partner[row] = nearest.partner;
      if (nearest.exact != kNoExact) atomicMin(&mine->exact, nearest.exact);
    }
  }
};

// First kernel of a round: Component::least of all components. Grid: (any, clouds).
template <class Keys>
__global__ void __launch_bounds__(256, 2)
    find_least_keys(Keys keys, Batch batch, const Facts* facts, Band band, Forest forests) {
  for (int64_t c = blockIdx.y; c < batch.clouds; c += gridDim.y) {
    const Forest forest = forests.at(c);
    const int n = batch.valid(c);
    if (forest.finished(n)) continue;
    const auto source = keys.of(c, batch, facts[c]);
    for (int64_t row = (blockIdx.x * blockDim.x + threadIdx.x) / 32; row < n;
         row += static_cast<int64_t>(gridDim.x) * (blockDim.x / 32)) {
      Row<decltype(keys.of(c, batch, facts[c]))>{source, forest, static_cast<int>(row), n, band}
          .find_least();
    }
  }
}

// Second kernel: Component::exact. Grid: (any, clouds).
template <class Keys, class Clouds>
__global__ void __launch_bounds__(256, 2)
    decide_contests(Keys keys, Clouds clouds, Batch batch, const Facts* facts, Band band,
                    Forest forests) {
  for (int64_t c = blockIdx.y; c < batch.clouds; c += gridDim.y) {
    const Forest forest = forests.at(c);
    const int n = batch.valid(c);
    if (forest.finished(n)) continue;
    const auto source = keys.of(c, batch, facts[c]);
    const auto cloud = clouds.cloud(c, batch, facts[c]);
    for (int64_t row = (blockIdx.x * blockDim.x + threadIdx.x) / 32; row < n;
         row += static_cast<int64_t>(gridDim.x) * (blockDim.x / 32)) {
      Row<decltype(keys.of(c, batch, facts[c]))>{source, forest, static_cast<int>(row), n, band}
          .decide(cloud);
    }
  }
}

// Third kernel: picks the edges and joins the components. A block for each cloud.
__global__ void __launch_bounds__(kJoinThreads) join_components(Batch batch, Forest forests) {
  const int64_t c = blockIdx.x;
  const Forest forest = forests.at(c);
  const int n = batch.valid(c);
  if (forest.finished(n)) return;
  const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  for (int row = first; row < n; row += step) {
    Component* mine = forest.of + forest.component[row];
    if (forest.exact_of_row[row] == mine->exact) {
      const int j = forest.partner[row];
      atomicMin(&mine->pick, u64(min(row, j)) << 32 | u64(max(row, j)));
    }
  }
  __syncthreads();
  for (int k = first; k < n; k += step) {
    if (forest.component[k] != k) continue;
    const u64 pick = forest.of[k].pick;
    const int one = forest.component[pick >> 32], other = forest.component[pick & 0xffffffffu];
    forest.next[k] = one == k ? other : one;
  }
  __syncthreads();
  // Of two components that chose each other, the smaller adds the edge and names the result.
  for (int k = first; k < n; k += step) {
    if (forest.component[k] != k) continue;
    const int next = forest.next[k];
    const bool mutual = forest.next[next] == k;
    forest.jump[k] = mutual && k < next ? k : next;
    if (!mutual || k < next) {
      forest.links[atomicAdd(forest.found, 1u)] = {forest.of[k].pick, forest.of[k].exact};
    }
  }
  // The names at the ends of the chains, in steps of 1, 2, 4, ...
  int* from = forest.jump;
  int* to = forest.next;
  for (;;) {
    __syncthreads();
    bool moved = false;
    for (int k = first; k < n; k += step) {
      if (forest.component[k] != k) continue;
      to[k] = from[from[k]];
      moved = moved || to[k] != from[k];
    }
    if (!__syncthreads_or(moved)) break;
    int* swapped = from;
    from = to;
    to = swapped;
  }
  for (int i = first; i < n; i += step) {
    forest.component[i] = from[forest.component[i]];
    forest.of[i] = {kNoExact, kNoExact, kNoKey};
  }
}

// Bars in the order of (death, smaller point, larger point): each edge counts those before it.
// Grid: (bars / kRankThreads, clouds).
template <class Clouds, class D>
__global__ void __launch_bounds__(kRankThreads, 8)
    rank_bars(Clouds clouds, Batch batch, const Facts* facts, Forest forests, Length how, D* deaths,
              int64_t* edges, int64_t* findings) {
  TSLOSS_SHARED(u64, deaths_of_tile, kRankThreads);
  TSLOSS_SHARED(u64, edges_of_tile, kRankThreads);
  for (int64_t c = blockIdx.y; c < batch.clouds; c += gridDim.y) {
    const Forest forest = forests.at(c);
    const int n = batch.valid(c), count = max(n - 1, 0);
    const Bars<D> bars{deaths + c * batch.bars(), edges + 2 * c * batch.bars(), batch.bars()};
    const int64_t mine = static_cast<int64_t>(blockIdx.x) * kRankThreads + threadIdx.x;
    const u64 problem = facts[c].problem;
    const bool good = problem == kNoExact;
    if (mine < bars.count && (!good || mine >= count)) bars.fill_one(mine, count);
    if (mine == 0 && (!good || count == 0)) {
      put_finding(findings + 3 * c, good ? 0 : static_cast<int64_t>(problem & 0xff),
                  clouds.first(problem, batch), clouds.second(problem, batch));
    }
    if (!good) continue;
    const auto cloud = clouds.cloud(c, batch, facts[c]);
    const auto death_of = [&](int64_t b) {
      return static_cast<double>(static_cast<D>(cloud.length(forest.links[b].exact, how)));
    };
    const u64 death = mine < count ? bits_of(death_of(mine)) : 0;
    const u64 edge = mine < count ? forest.links[mine].edge : 0;
    int64_t rank = 0;
    for (int first = 0; first < count; first += kRankThreads) {
      const int b = first + static_cast<int>(threadIdx.x);
      __syncthreads();
      if (b < count) {
        deaths_of_tile[threadIdx.x] = bits_of(death_of(b));
        edges_of_tile[threadIdx.x] = forest.links[b].edge;
      }
      __syncthreads();
      for (int t = 0; t < min(kRankThreads, count - first); ++t) {
        rank +=
            deaths_of_tile[t] < death || (deaths_of_tile[t] == death && edges_of_tile[t] < edge);
      }
    }
    if (mine >= count) continue;
    const int64_t i = static_cast<int64_t>(edge >> 32),
                  j = static_cast<int64_t>(edge & 0xffffffffu);
    bars.put(rank, static_cast<D>(double_of(death)), i, j);
    if (rank == count - 1) {
      const bool over = death >= 0x7ffull << 52;
      put_finding(findings + 3 * c, over ? kOverflow : 0, over ? i : -1, over ? j : -1);
    }
  }
}

}  // namespace cuda
}  // namespace tsloss
