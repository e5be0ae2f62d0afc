// The words of CUDA that kernels use, for g++; see executor.h.
#pragma once

#include <cmath>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "simt/executor.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

#define threadIdx (::simt::running->index)
#define blockIdx (::simt::running->block)
#define blockDim (::simt::running->block_size)
#define gridDim (::simt::running->grid_size)
constexpr int warpSize = 32;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace simt {

template <class To, class From>
To bits_to(From value) {
  static_assert(sizeof(From) <= sizeof(To) || sizeof(To) <= 8);
  static_assert(std::is_trivially_copyable_v<To> && std::is_trivially_copyable_v<From>);
  To result{};
  std::memcpy(&result, &value, sizeof(To) < sizeof(From) ? sizeof(To) : sizeof(From));
  return result;
}

inline float from_half(uint16_t bits) {
  const float magnitude = bits_to<float>(uint32_t(bits & 0x7fff) << 13);
  const float scaled = (bits & 0x7c00) == 0x7c00
                           ? bits_to<float>(0x7f800000u | (uint32_t(bits & 0x3ff) << 13))
                           : magnitude * 0x1p112f;
  return bits & 0x8000 ? -scaled : scaled;
}
inline uint16_t to_half(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float a = std::fabs(x);
  if (a != a) return 0x7e00;
  if (a >= 65520.0f) return sign | 0x7c00;
  // Adding a number whose last digit is that of the result rounds as the machine does.
  int exponent;
  std::frexp(a, &exponent);
  const float unit = std::ldexp(1.0f, (exponent < -13 ? -13 : exponent) - 11);
  const float digits = std::nearbyint(a / unit);
  const float rounded = digits * unit;
  if (rounded < 0x1p-14f) return sign | static_cast<uint16_t>(digits);
  return sign | static_cast<uint16_t>((bits_to<uint32_t>(rounded * 0x1p-112f)) >> 13);
}

// One object for each variable and block; `Tag` is a type of its own at each place.
template <class T, class Tag>
T& shared_variable(Tag) {
  static const char key = 0;
  return *static_cast<T*>(static_shared(&key, sizeof(T), alignof(T)));
}

// kernel<<<grid, block, dynamic_shared>>>(arguments...)
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, int64_t dynamic_shared, A&&... arguments) {
  const std::tuple<P...> copy(static_cast<P>(std::forward<A>(arguments))...);
  run(grid, block, dynamic_shared, [&] { std::apply(kernel, copy); });
}

template <class T, class F>
T read_modify_write(T* at, F change) {
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  static_assert(sizeof(T) == sizeof(Bits));
  before_atomic();
  Bits* bits = reinterpret_cast<Bits*>(at);
  Bits old = __atomic_load_n(bits, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(bits, &old, bits_to<Bits>(change(bits_to<T>(old))), false,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return bits_to<T>(old);
}

// Asynchronous copies arrive as late as they may.
inline void copy_later(void* to, const void* from, size_t bytes, Site site) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes != 0) {
    throw Error("misaligned copy: " + std::to_string(bytes) +
                " bytes from or to an address that is no multiple, at " + name(site));
  }
  running->copies.push_back({to, from, bytes});
}
inline void wait_for_copies() {
  for (const LateCopy& copy : running->copies) std::memcpy(copy.to, copy.from, copy.bytes);
  running->copies.clear();
}

template <class T>
struct Same {
  using Type = T;
};

}  // namespace simt

#define SIMT_HERE const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE()
#define SIMT_SITE (::simt::Site{file_, line_})

inline void __syncthreads(SIMT_HERE) { simt::block_barrier(0, simt::Vote::kNone, SIMT_SITE); }
inline int __syncthreads_count(int predicate, SIMT_HERE) {
  return simt::block_barrier(predicate, simt::Vote::kCount, SIMT_SITE);
}
inline int __syncthreads_and(int predicate, SIMT_HERE) {
  return simt::block_barrier(predicate, simt::Vote::kAnd, SIMT_SITE);
}
inline int __syncthreads_or(int predicate, SIMT_HERE) {
  return simt::block_barrier(predicate, simt::Vote::kOr, SIMT_SITE);
}

inline void __syncwarp(unsigned mask = ~0u, SIMT_HERE) {
  simt::warp_collective(simt::Collective::kSync, mask, 0, 0, 32, SIMT_SITE);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_HERE) {
  return static_cast<unsigned>(
      simt::warp_collective(simt::Collective::kBallot, mask, predicate != 0, 0, 32, SIMT_SITE));
}
inline int __any_sync(unsigned mask, int predicate, SIMT_HERE) {
  return simt::warp_collective(simt::Collective::kBallot, mask, predicate != 0, 0, 32, SIMT_SITE) !=
         0;
}
inline int __all_sync(unsigned mask, int predicate, SIMT_HERE) {
  return simt::warp_collective(simt::Collective::kBallot, mask, predicate == 0, 0, 32, SIMT_SITE) ==
         0;
}

#define SIMT_SHUFFLE(name, what, Argument)                                                        \
  template <class T>                                                                              \
  T name(unsigned mask, T value, Argument argument, int width = 32, SIMT_HERE) {                  \
    static_assert(sizeof(T) <= 8);                                                                \
    return simt::bits_to<T>(simt::warp_collective(simt::Collective::what, mask,                   \
                                                  simt::bits_to<uint64_t>(value),                 \
                                                  static_cast<int>(argument), width, SIMT_SITE)); \
  }
SIMT_SHUFFLE(__shfl_sync, kShuffle, int)
SIMT_SHUFFLE(__shfl_up_sync, kShuffleUp, unsigned)
SIMT_SHUFFLE(__shfl_down_sync, kShuffleDown, unsigned)
SIMT_SHUFFLE(__shfl_xor_sync, kShuffleXor, int)
#undef SIMT_SHUFFLE

template <class T>
unsigned __match_any_sync(unsigned mask, T value, SIMT_HERE) {
  return static_cast<unsigned>(simt::warp_collective(
      simt::Collective::kMatch, mask, simt::bits_to<uint64_t>(value), 0, 32, SIMT_SITE));
}

#define SIMT_REDUCE(name, T, what)                                                                \
  inline T name(unsigned mask, T value, SIMT_HERE) {                                              \
    return static_cast<T>(simt::warp_collective(simt::Collective::what, mask,                     \
                                                static_cast<uint32_t>(value), 0, 32, SIMT_SITE)); \
  }
SIMT_REDUCE(__reduce_add_sync, unsigned, kAdd)
SIMT_REDUCE(__reduce_add_sync, int, kAdd)
SIMT_REDUCE(__reduce_min_sync, unsigned, kMinUnsigned)
SIMT_REDUCE(__reduce_min_sync, int, kMinSigned)
SIMT_REDUCE(__reduce_max_sync, unsigned, kMaxUnsigned)
SIMT_REDUCE(__reduce_max_sync, int, kMaxSigned)
SIMT_REDUCE(__reduce_and_sync, unsigned, kAnd)
SIMT_REDUCE(__reduce_or_sync, unsigned, kOr)
SIMT_REDUCE(__reduce_xor_sync, unsigned, kXor)
#undef SIMT_REDUCE

// Atomics are relaxed, as CUDA's are.
#define SIMT_ATOMIC(name, result)                                             \
  template <class T>                                                          \
  T name(T* at, typename simt::Same<T>::Type value) {                         \
    return simt::read_modify_write(at, [value](T old) { return T(result); }); \
  }
SIMT_ATOMIC(atomicAdd, old + value)
SIMT_ATOMIC(atomicSub, old - value)
SIMT_ATOMIC(atomicMin, old < value ? old : value)
SIMT_ATOMIC(atomicMax, old < value ? value : old)
SIMT_ATOMIC(atomicOr, old | value)
SIMT_ATOMIC(atomicAnd, old& value)
SIMT_ATOMIC(atomicExch, ((void)old, value))
#undef SIMT_ATOMIC
template <class T>
T atomicCAS(T* at, typename simt::Same<T>::Type expected, typename simt::Same<T>::Type value) {
  return simt::read_modify_write(at, [=](T old) { return old == expected ? value : old; });
}
inline void __threadfence() { simt::fence(); }
inline void __threadfence_block() { simt::fence(); }
inline void __nanosleep(unsigned) { simt::yield(); }

template <class T>
T __ldg(const T* at) {
  return *at;
}
template <class T>
T __ldcg(const T* at) {
  return *at;
}
template <class T>
void __stcs(T* at, T value) {
  *at = value;
}
inline float __int_as_float(int v) { return simt::bits_to<float>(v); }
inline int __float_as_int(float v) { return simt::bits_to<int>(v); }
inline float __uint_as_float(unsigned v) { return simt::bits_to<float>(v); }
inline unsigned __float_as_uint(float v) { return simt::bits_to<unsigned>(v); }
inline double __dsqrt_rn(double v) { return std::sqrt(v); }
inline double __longlong_as_double(long long v) { return simt::bits_to<double>(v); }
inline long long __double_as_longlong(double v) { return simt::bits_to<long long>(v); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __clz(int v) { return v ? __builtin_clz(static_cast<unsigned>(v)) : 32; }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline float __fsqrt_rn(float v) { return std::sqrt(v); }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
template <class T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}
