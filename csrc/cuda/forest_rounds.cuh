// The rounds of a forest, three kernels each, and the bars of what has grown.
#pragma once

#include "cuda/bars.cuh"
#include "cuda/forest.cuh"

namespace tsloss {
namespace cuda {

constexpr int kJoinThreads = 1024;
constexpr int kRankThreads = 128;

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
  for_growing(batch, forests, [&](int64_t c, const Forest& forest, int n) {
    const auto source = keys.of(c, batch, facts[c]);
    for_rows(n, [&](int64_t row) {
      Row<decltype(source)>{source, forest, static_cast<int>(row), n, band}.find_least();
    });
  });
}

// Second kernel: Component::exact. Grid: (any, clouds).
template <class Keys, class Clouds>
__global__ void __launch_bounds__(256, 2)
    decide_contests(Keys keys, Clouds clouds, Batch batch, const Facts* facts, Band band,
                    Forest forests) {
  for_growing(batch, forests, [&](int64_t c, const Forest& forest, int n) {
    const auto source = keys.of(c, batch, facts[c]);
    const auto cloud = clouds.cloud(c, batch, facts[c]);
    for_rows(n, [&](int64_t row) {
      Row<decltype(source)>{source, forest, static_cast<int>(row), n, band}.decide(cloud);
    });
  });
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
    if (mine->exact != kNoExact && forest.exact_of_row[row] == mine->exact) {
      const int j = forest.partner[row];
      atomicMin(&mine->pick, u64(min(row, j)) << 32 | u64(max(row, j)));
    }
  }
  __syncthreads();
  for (int k = first; k < n; k += step) {
    if (forest.component[k] != k) continue;
    const u64 pick = forest.of[k].pick;
    int next = k;
    if (pick != kNoExact) {
      const int one = forest.component[pick >> 32], other = forest.component[pick & 0xffffffffu];
      next = one == k ? other : one;
    }
    forest.next[k] = next;
  }
  __syncthreads();
  // The smaller one of two components that chose each other names the result.
  for (int k = first; k < n; k += step) {
    if (forest.component[k] != k) continue;
    const int next = forest.next[k];
    const bool names = forest.next[next] == k && k <= next;
    forest.jump[k] = names ? k : next;
    forest.partner[k] = names;
  }
  // The names at the ends of the chains, in steps of 1, 2, 4, ...
  int* from = forest.jump;
  int* to = forest.next;
  for (int length = 0; length < 32; ++length) {
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
  // If another program writes to the points meanwhile, keys contradict each other: a component may
  // then choose none, or a way may end in a circle of more than two. Those wait for the next round.
  for (int i = first; i < n; i += step) {
    const int c = forest.component[i], name = from[c];
    if (name != c && forest.partner[name]) {
      if (c == i)
        forest.links[atomicAdd(forest.found, 1u)] = {forest.of[i].pick, forest.of[i].exact};
      forest.component[i] = name;
    }
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
    const Bars<D> bars = bars_of(c, batch, deaths, edges);
    const int64_t mine = static_cast<int64_t>(blockIdx.x) * kRankThreads + threadIdx.x;
    const u64 problem = facts[c].problem;
    const bool good = has_tree(problem) && forest.finished(n);
    if (mine < bars.count && (!good || mine >= count)) bars.fill_one(mine, count);
    if (mine == 0 && (!good || count == 0)) {
      put_finding(findings + 3 * c, what_of(problem), clouds.first(problem, batch),
                  clouds.second(problem, batch));
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
      const bool over = problem == kNoExact && death >= kInfiniteBits;
      put_finding(findings + 3 * c, over ? kOverflow : what_of(problem),
                  over ? i : clouds.first(problem, batch),
                  over ? j : clouds.second(problem, batch));
    }
  }
}

}  // namespace cuda
}  // namespace tsloss
