// Chunks of the points of a small cloud on their way to shared memory, and what is seen of them.
#pragma once

#include "cuda/distances.cuh"
#include "cuda/tiling.cuh"

namespace tsloss {
namespace cuda {

__device__ __forceinline__ u32 bits_without_sign(float x) { return __float_as_uint(x) << 1 >> 1; }
__device__ __forceinline__ u64 bits_without_sign(double x) { return bits_of(x) << 1 >> 1; }
__device__ __forceinline__ double number_of(u32 bits) {
  return static_cast<double>(__uint_as_float(bits));
}
__device__ __forceinline__ double number_of(u64 bits) { return double_of(bits); }

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

}  // namespace cuda
}  // namespace tsloss
