// Chunks of the points of a small cloud on their way to shared memory, and their extreme values.
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

// Per-thread partial minima over the cloud, merged by taking the minimum of each field.
template <class S>
struct PartialMinima {
  using Bits = decltype(bits_without_sign(S{}));
  static constexpr Bits kInfinite = sizeof(S) == 4 ? Bits(0x7f800000u) : Bits(0x7ffull << 52);

  Bits largest_complement = ~Bits{0};  // complement of the largest magnitude
  Bits smallest_minus_one = ~Bits{0};  // of magnitudes in double; 0 wraps around
  u32 first_bad = kAll;                // the first point with a number that is not finite

  __device__ __forceinline__ void add(S x, u32 row) {
    const Bits bits = bits_without_sign(x);
    largest_complement = min(largest_complement, Bits(~bits));
    if (sizeof(S) == 8) smallest_minus_one = min(smallest_minus_one, Bits(bits - 1));
    if (bits >= kInfinite) first_bad = min(first_bad, row);
  }
};

// Merges facts into those in shared memory. All threads of a warp call it together.
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
__device__ void join_facts(const PartialMinima<S>& minima, Facts* facts) {
  using Bits = typename PartialMinima<S>::Bits;
  const Bits most = ~minima.largest_complement;
  join_facts(minima.first_bad == kAll ? kNoExact : u64(minima.first_bad) << 8 | kNonFinite,
             bits_of(number_of(most)),
             minima.smallest_minus_one == ~Bits{0}
                 ? kNoExact
                 : bits_of(number_of(Bits(minima.smallest_minus_one + 1))),
             facts);
}

// A chunk on its way from the points to shared memory, 16 bytes at a time: `load` starts the copy,
// and `arrive` waits for it. Numbers of 4 or 8 bytes are copied asynchronously, those of 2 bytes go
// through registers.
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

  // Calls body(pack of the thread, row, its first coordinate in the chunk) for each pack.
  template <class F>
  __device__ __forceinline__ void for_packs(F&& body) const {
    const int shift = __ffs(across) - 1;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int t = static_cast<int>(threadIdx.x + p * blockDim.x);
      if ((t >> shift) < rows) body(p, t >> shift, (t & (across - 1)) * kWidth);
    }
  }

  // Starts to load the next coordinates, with zeros beyond the last.
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

  __device__ __forceinline__ void arrive(S* chunk, PartialMinima<S>* minima) const {
    if constexpr (kCopied) {
      wait_for_copies();
      if (!aligned) __syncthreads();  // others have copied what this thread looks at
    }
    for_packs([&](int p, int row, int at) {
      S* to = chunk + row * pitch + at;
      if constexpr (kCopied) {
        Packed<S>* pack = reinterpret_cast<Packed<S>*>(to);
        for (S x : pack->value) minima->add(x, static_cast<u32>(row));
        if (cloud.scale == 1) return;
        for (S& x : pack->value) x = cloud.scaled(x);
      } else {
        const auto numbers = same_bytes<Packed<P>>(held[p]);
#pragma unroll
        for (int first = 0; first < kWidth; first += 4) {
          Packed<S> pack;
#pragma unroll
          for (int w = 0; w < 4; ++w) {
            minima->add(widen(numbers.value[first + w]), static_cast<u32>(row));
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
