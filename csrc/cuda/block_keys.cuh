// Fast keys of all pairs of a small cloud, by one block, which reads the points once and looks at
// what is wrong with them on the way.
//
// With m = ceil(n / 4), thread (a, b), a <= b, has the pairs of rows a + m r and b + m q, r and q
// from 0 to 3: neighbouring threads read neighbouring rows of shared memory, and no two meet in a
// bank. Where pairs are few, several threads have the same pairs and different coordinates.
#pragma once

#include "cuda/distances.cuh"

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

__device__ __forceinline__ u32 bits_without_sign(float x) { return __float_as_uint(x) << 1 >> 1; }
__device__ __forceinline__ u64 bits_without_sign(double x) { return bits_of(x) << 1 >> 1; }
__device__ __forceinline__ double number_of(u32 bits) {
  return static_cast<double>(__uint_as_float(bits));
}
__device__ __forceinline__ double number_of(u64 bits) { return double_of(bits); }

__device__ __forceinline__ u32 least_of_warp(u32 x) { return __reduce_min_sync(kAll, x); }
__device__ __forceinline__ u64 least_of_warp(u64 x) {
  for (int step = 16; step > 0; step /= 2) x = min(x, __shfl_xor_sync(kAll, x, step));
  return x;
}

// What a thread has seen of a cloud. All of it is the least of something.
template <class S>
struct Seen {
  using Bits = decltype(bits_without_sign(S{}));
  static constexpr Bits kInfinite = sizeof(S) == 4 ? Bits(0x7f800000u) : Bits(0x7ffull << 52);

  Bits below_most = ~Bits{0};  // complement of the largest
  Bits least = ~Bits{0};       // 1 less than the smallest above 0
  u32 bad = kAll;              // the first point with a number that is not finite

  __device__ __forceinline__ void add(S x, u32 row) {
    const Bits bits = bits_without_sign(x);
    below_most = min(below_most, Bits(~bits));
    if (sizeof(S) == 8) least = min(least, Bits(bits - 1));  // only double asks for it
    if (bits >= kInfinite) bad = min(bad, row);
  }
};

// Joins facts in shared memory. For whole warps.
__device__ __forceinline__ void join_facts(u64 problem, u64 largest, u64 smallest, Facts* facts) {
  problem = least_of_warp(problem);
  largest = ~least_of_warp(~largest);
  smallest = least_of_warp(smallest);
  if (threadIdx.x % 32 != 0) return;
  atomicMin(&facts->problem, problem);
  atomicMax(&facts->largest, largest);
  atomicMin(&facts->smallest, smallest);
}
template <class S>
__device__ void join_facts(const Seen<S>& seen, Facts* facts) {
  using Bits = typename Seen<S>::Bits;
  const Bits most = ~seen.below_most;
  join_facts(seen.bad == kAll ? kNoExact : u64(seen.bad) << 8 | kNonFinite,
             bits_of(number_of(most)),
             seen.least == ~Bits{0} ? kNoExact : bits_of(number_of(Bits(seen.least + 1))), facts);
}

// A chunk on its way from the points to shared memory, 16 bytes at a time: `load` starts it, and
// `arrive` ends it. Numbers of whole words are copied by the machine, half ones by way of
// registers.
template <class Cloud>
struct Chunk {
  using P = typename Cloud::Number;
  using S = typename Cloud::Staged;
  static constexpr bool kCopied = sizeof(P) == sizeof(S);
  static constexpr int kWidth = 16 / static_cast<int>(sizeof(P));
  static constexpr int kPacks = kHeld / static_cast<int>(sizeof(S)) / kWidth;

  const Cloud& cloud;
  const P* first;  // coordinate to be loaded, of the first point
  int64_t left;    // coordinates that are not loaded yet
  int n, rows, pitch;
  int across;    // packs of a row, a power of two
  bool aligned;  // rows of the points, to 16 bytes
  uint4 held[kCopied ? 1 : kPacks];

  __device__ Chunk(const Cloud& of, int points, int width, int64_t begin, int64_t end)
      : cloud(of),
        first(of.points + begin),
        left(end - begin),
        n(points),
        rows(4 * rows_apart(points)),
        pitch(width + 16 / static_cast<int>(sizeof(S))),
        across(width / kWidth) {
    const auto address = reinterpret_cast<uintptr_t>(of.points);
    aligned = (address | static_cast<uintptr_t>(of.dim * sizeof(P))) % 16 == 0;
  }

  // body(pack of the thread, row, the first coordinate in the chunk)
  template <class F>
  __device__ __forceinline__ void for_packs(F&& body) const {
    const int shift = __ffs(across) - 1;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int t = static_cast<int>(threadIdx.x + p * blockDim.x);
      if ((t >> shift) < rows) body(p, t >> shift, (t & (across - 1)) * kWidth);
    }
  }

  // The next coordinates, with zeros beyond the last.
  __device__ __forceinline__ void load(S* chunk) {
    const int width = across * kWidth;
    const int there = static_cast<int>(min(left, int64_t{width}));
    copy(there, chunk);
    left -= width;
    first += width;
  }

  __device__ __forceinline__ void copy(int there, S* chunk) {
    if constexpr (kCopied) {
      if (!aligned) {
        copy_one_by_one(there, chunk);
        return;
      }
    }
    for_packs([&](int p, int row, int at) {
      const P* from = first + row * cloud.dim + at;
      const int count = row < n ? there - at : 0;
      if constexpr (kCopied) {
        P* to = chunk + row * pitch + at;
        if (count > 0) {
          copy_later<16>(to, from);
        } else {
          *reinterpret_cast<Packed<P>*>(to) = {};
        }
      } else if (aligned) {
        held[p] = count > 0 ? load_16_bytes(from) : uint4{0, 0, 0, 0};
      } else {
        Packed<P> numbers{};
#pragma unroll
        for (int w = 0; w < kWidth; ++w) {
          if (w < count) numbers.value[w] = from[w];
        }
        held[p] = same_bytes<uint4>(numbers);
      }
    });
  }

  __device__ __forceinline__ void copy_one_by_one(int there, S* chunk) const {
    const int width = across * kWidth;
#pragma unroll 1
    for (int t = static_cast<int>(threadIdx.x); t < rows * width; t += blockDim.x) {
      const int row = t / width, at = t % width;
      S* to = chunk + row * pitch + at;
      if (row < n && at < there) {
        copy_later<sizeof(P)>(to, first + row * cloud.dim + at);
      } else {
        *to = 0;
      }
    }
  }

  __device__ __forceinline__ void arrive(S* chunk, Seen<S>* seen) const {
    if constexpr (kCopied) {
      wait_for_copies();
      if (!aligned) __syncthreads();  // others have copied what this thread looks at
    }
    for_packs([&](int p, int row, int at) {
      S* to = chunk + row * pitch + at;
      if constexpr (kCopied) {
        Packed<S>* pack = reinterpret_cast<Packed<S>*>(to);
        for (S x : pack->value) seen->add(x, static_cast<u32>(row));
        if (cloud.scale == 1) return;
        for (S& x : pack->value) x = cloud.scaled(x);
      } else {
        const auto numbers = same_bytes<Packed<P>>(held[p]);
#pragma unroll
        for (int first = 0; first < kWidth; first += 4) {
          Packed<S> pack;
#pragma unroll
          for (int w = 0; w < 4; ++w) {
            seen->add(widen(numbers.value[first + w]), static_cast<u32>(row));
            pack.value[w] = cloud.scaled(numbers.value[first + w]);
          }
          *reinterpret_cast<Packed<S>*>(to + first) = pack;
        }
      }
    });
  }
};

// Sums over coordinates [begin, end) for all pairs of n > 0 points: that of rows a + m r and
// b + m q is in sums[(4 r + q) * tiles + tile]. `sums` may be where the chunks are staged.
template <class Cloud>
__device__ Seen<typename Cloud::Staged> block_sums(const Cloud& cloud, int n, const Tiling& tiling,
                                                   int64_t begin, int64_t end,
                                                   typename Cloud::Staged* staging, float* sums) {
  using S = typename Cloud::Staged;
  const int apart = rows_apart(n), tiles = tiles_of(n);
  const int tile = static_cast<int>(threadIdx.x) % tiles;
  const int slice = static_cast<int>(threadIdx.x) / tiles;
  const int share = tiling.width / tiling.slices;
  int a = 0, b = 0;
  tile_at(tile, apart, &a, &b);
  Seen<S> seen;
  Chunk<Cloud> next(cloud, n, tiling.width, begin, end);
  float sum[4][4] = {};
  const int pitch = next.pitch;
  const int size = next.rows * pitch;
  int at = 0;  // of the chunk; the other one is at size - at
  bool more = next.left > 0;
  if (more) next.load(staging);
  while (more) {
    next.arrive(staging + at, &seen);
    // Nobody reads the other chunk any more.
    __syncthreads();
    more = next.left > 0;
    if (more) next.load(staging + size - at);
    if (slice < tiling.slices) {
      accumulate<Cloud::kTerm>(staging + at + a * pitch, apart * pitch, staging + at + b * pitch,
                               apart * pitch, slice * share, (slice + 1) * share, sum);
    }
    at = size - at;
  }
  for (int s = 0; s < tiling.slices; ++s) {
    __syncthreads();
    if (slice != s) continue;
#pragma unroll
    for (int e = 0; e < 16; ++e) {
      float* at = sums + e * tiles + tile;
      *at = s == 0 ? sum[e / 4][e % 4] : __fadd_rn(*at, sum[e / 4][e % 4]);
    }
  }
  __syncthreads();
  return seen;
}

// The sums of `parts`, `stride` numbers apart, as a matrix of keys (n, n).
__device__ inline void spread_keys(int n, const float* sums, int parts, int64_t stride,
                                   float* keys) {
  const int apart = rows_apart(n), tiles = tiles_of(n);
  const int tile = static_cast<int>(threadIdx.x) % tiles;
  const int groups = static_cast<int>(blockDim.x) / tiles;
  const int group = static_cast<int>(threadIdx.x) / tiles;
  if (group >= groups) return;
  int a, b;
  tile_at(tile, apart, &a, &b);
  for (int e = group; e < 16; e += groups) {
    const int r = e / 4, q = e % 4, i = a + apart * r, j = b + apart * q;
    // The mirror image of a tile on the diagonal is in the tile.
    if (i >= n || j >= n || (a == b && r > q)) continue;
    const float* at = sums + e * tiles + tile;
    float sum = *at;
#pragma unroll 8
    for (int p = 1; p < parts; ++p) sum = __fadd_rn(sum, at[p * stride]);
    keys[i * n + j] = sum;
    keys[j * n + i] = sum;
  }
}

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

}  // namespace cuda
}  // namespace tsloss
