// What differs between nvcc and the host executor of the tests (../simt): kernels include this and
// nothing else of CUDA.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define TSLOSS_SHARED(T, name, count) __shared__ T name[count]
#define TSLOSS_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#else
#include "simt/cuda_words.h"
#define TSLOSS_SHARED(T, name, count) T(&name)[count] = ::simt::shared_variable<T[count]>([] {})
#define TSLOSS_DYNAMIC_SHARED(name) \
  unsigned char* name = static_cast<unsigned char*>(::simt::dynamic_shared())
#endif

namespace tsloss {
namespace cuda {

using u32 = unsigned;
using u64 = unsigned long long;

// A number that other blocks may lower meanwhile.
#if defined(__CUDACC__)
__device__ __forceinline__ u32 peek(const u32* at) { return *const_cast<const volatile u32*>(at); }
#else
inline u32 peek(const u32* at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }
#endif

// 16 bytes at once, from an address that is a multiple of 16.
#if defined(__CUDACC__)
__device__ __forceinline__ uint4 load_16_bytes(const void* at) {
  return *static_cast<const uint4*>(at);
}
#else
inline uint4 load_16_bytes(const void* at) {
  struct alignas(16) Bytes {
    unsigned char value[16];
  };
  const Bytes bytes = *static_cast<const Bytes*>(at);
  return simt::bits_to<uint4>(bytes);
}
#endif

// Copies kBytes (4, 8 or 16, and the addresses are multiples) from global to shared memory; the
// thread finds them there after wait_for_copies.
#if defined(__CUDACC__)
template <int kBytes>
__device__ __forceinline__ void copy_later(void* shared, const void* global) {
  const u32 to = static_cast<u32>(__cvta_generic_to_shared(shared));
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(kBytes)
                 : "memory");
  }
}
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}
#else
template <int kBytes>
inline void copy_later(void* shared, const void* global, SIMT_HERE) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "what the machine has");
  simt::copy_later(shared, global, kBytes, SIMT_SITE);
}
inline void wait_for_copies() { simt::wait_for_copies(); }
#endif

// 1 / x to about 22 digits of 24, for a normal x whose inverse is.
#if defined(__CUDACC__)
__device__ __forceinline__ float rough_inverse(float x) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
  return inverse;
}
#else
inline float rough_inverse(float x) { return 1 / x; }
#endif

template <class To, class From>
__device__ __forceinline__ To same_bytes(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "all bytes, and no more");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// The numbers of half a word, as bits: kernels compute with none of them.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

#if defined(__CUDACC__)
__device__ __forceinline__ float widen(Half x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ __forceinline__ Half narrow(float x, Half) {
  return {__half_as_ushort(__float2half_rn(x))};
}
#else
inline float widen(Half x) { return simt::from_half(x.bits); }
inline Half narrow(float x, Half) { return {simt::to_half(x)}; }
#endif

__device__ __forceinline__ float widen(BFloat16 x) { return __uint_as_float(u32{x.bits} << 16); }
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }

// Rounded to the nearest, ties to even. The second argument names the type.
__device__ __forceinline__ BFloat16 narrow(float x, BFloat16) {
  const u32 bits = __float_as_uint(x);
  if (x != x) return {0x7fc0};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
__device__ __forceinline__ float narrow(float x, float) { return x; }
__device__ __forceinline__ double narrow(double x, double) { return x; }

}  // namespace cuda
}  // namespace tsloss
