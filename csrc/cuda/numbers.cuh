// Keys: the numbers by which a tree compares pairs of points.
//
// Fast keys are single-precision sums whose rounding error is known. Exact keys are sums in double,
// in the order of the CPU core: they decide wherever fast keys cannot, so that a tree has the same
// edges as on the CPU.
#pragma once

#include "cuda/port.cuh"

namespace tsloss {
namespace cuda {

enum class Term : int { kSquared = 0, kAbsolute = 1 };
// How the length of an edge comes from its exact key.
enum class Length : int { kRoot = 0, kKey = 1, kHalf = 2, kSquare = 3 };

constexpr u32 kAll = ~0u;
constexpr u32 kNoKey = ~0u;
constexpr u64 kNoExact = ~0ull;
constexpr u64 kInfiniteBits = 0x7ffull << 52;  // of double
constexpr int kChunk = 32;  // coordinates that are added up before their sum joins the total
// Exact keys of double stay clear of underflow and overflow between these; see Facts.
constexpr double kLeast = 0x1p-420;
constexpr double kMost = 0x1p+480;
constexpr double kLargestDouble = 1.7976931348623157e308;

// What is wrong with a cloud; see ../tsloss.h.
constexpr int kNonFinite = 1;
constexpr int kZeroVector = 2;
constexpr int kOverflow = 3;
constexpr int kNegative = 4;
constexpr int kDiagonal = 5;
constexpr int kAsymmetric = 6;

// The key itself, or infinity for NaN, which has no place in an order. Keys are NaN if the points
// have become so since they were looked at.
__device__ __forceinline__ float ordered(float key) {
  return fminf(key, __uint_as_float(0x7f800000u));
}

// Non-negative numbers are ordered as their bits are.
__device__ __forceinline__ u64 bits_of(double x) {
  return static_cast<u64>(__double_as_longlong(x));
}
__device__ __forceinline__ double double_of(u64 bits) {
  return __longlong_as_double(static_cast<long long>(bits));
}

__device__ __forceinline__ u32 least_of_warp(u32 x) { return __reduce_min_sync(kAll, x); }
__device__ __forceinline__ u64 least_of_warp(u64 x) {
  for (int step = 16; step > 0; step /= 2) x = min(x, __shfl_xor_sync(kAll, x, step));
  return x;
}

// 2^exponent, and the exponent of a number above 0 (as ilogb, without a call).
__device__ __forceinline__ double power_of_two(int exponent) {  // of a normal number
  return double_of(static_cast<u64>(exponent + 1023) << 52);
}
__device__ __forceinline__ int exponent_of(double x) {
  const bool small = x < 0x1p-1022;
  return static_cast<int>(bits_of(small ? x * 0x1p54 : x) >> 52) - (small ? 1077 : 1023);
}

// 2^exponent as two factors that stay in range, in that of float for the exponents of float. As on
// the CPU (PowerOfTwo in ../cpu/rows.h).
struct PowerOfTwo {
  double one, two;

  __device__ explicit PowerOfTwo(int exponent)
      : one(power_of_two(exponent / 2)), two(power_of_two(exponent - exponent / 2)) {}
  template <class D>
  __device__ __forceinline__ D times(D x) const {
    return x * static_cast<D>(one) * static_cast<D>(two);
  }
};

// Of one cloud, filled in by atomics.
struct Facts {
  u64 problem;   // smallest (point << 8 | what), or problem_of_entry; kNoExact: none
  u64 largest;   // bits of the largest |number|
  u64 smallest;  // bits of the smallest |number| above 0
};

// Whether a cloud has a tree. One of infinite distances has, though they are a problem to be named.
constexpr u64 kInfiniteEntry = 1ull << 63;
__device__ __forceinline__ bool has_tree(u64 problem) { return problem >= kInfiniteEntry; }

// A power of two that brings the largest number to about 1: fast keys cannot overflow then. Small
// and large numbers alike stay as they are.
__device__ __forceinline__ double scale_of(u64 largest) {
  const int exponent = static_cast<int>(largest >> 52) - 1023;
  if (exponent >= -30 && exponent < 40) return 1;
  const int shift = exponent < -1000 ? 1000 : -exponent;
  return power_of_two(shift <= -1023 ? -1022 : shift);
}

// The largest fast key that a pair can have whose exact key is at most that of one with fast key
// `least`. Below `tiny`, squares have left the range of float.
struct Band {
  float factor, tiny;

  __device__ __forceinline__ u32 of(u32 least) const {
    return __float_as_uint(__fmul_rn(fmaxf(__uint_as_float(least), tiny), factor));
  }
};

// `roundings`: additions on the longest way through a sum.
inline Band band_for(int64_t dim, int64_t roundings) {
  const float units = static_cast<float>(roundings + 16);
  return {1 + units * 0x1p-23f, static_cast<float>(dim > 1 ? dim : 1) * 0x1p-110f};
}

// Sixteen lanes share a sum. They add as the sixteen lanes of the CPU's vectors do.
__device__ __forceinline__ double add_lanes(double sum) {
  for (int step = 8; step > 0; step /= 2) sum = __dadd_rn(sum, __shfl_xor_sync(kAll, sum, step));
  return sum;
}

// The exact key of two points, for all lanes of a warp; each half of it may have a pair of its own.
template <Term kTerm, class P>
__device__ double exact_sum(const P* x, const P* y, int64_t dim) {
  double sum = 0;
  for (int64_t k = threadIdx.x & 15; k < dim; k += 16) {
    const double d = static_cast<double>(widen(x[k])) - static_cast<double>(widen(y[k]));
    sum = __dadd_rn(sum, kTerm == Term::kSquared ? __dmul_rn(d, d) : fabs(d));
  }
  return add_lanes(sum);
}

// The distance where squares leave the range of double. Scaling by a power of two is exact.
__device__ inline double robust_length(const double* x, const double* y, int64_t dim) {
  double largest = 0;
  for (int64_t k = threadIdx.x & 15; k < dim; k += 16) largest = fmax(largest, fabs(x[k] - y[k]));
  for (int step = 8; step > 0; step /= 2) {
    largest = fmax(largest, __shfl_xor_sync(kAll, largest, step));
  }
  const bool plain = largest == 0 || !(largest <= kLargestDouble);
  const int exponent = plain ? 0 : exponent_of(largest);
  double sum = 0;
  for (int64_t k = threadIdx.x & 15; k < dim; k += 16) {
    const double d = scalbn(x[k] - y[k], -exponent);
    sum = __dadd_rn(sum, __dmul_rn(d, d));
  }
  sum = add_lanes(sum);
  return plain ? largest : scalbn(__dsqrt_rn(sum), exponent);
}
__device__ inline double robust_length(const float*, const float*, int64_t) { return 0; }
__device__ inline double robust_length(const Half*, const Half*, int64_t) { return 0; }
__device__ inline double robust_length(const BFloat16*, const BFloat16*, int64_t) { return 0; }

}  // namespace cuda
}  // namespace tsloss
