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
