// The instructions of PTX as C++ functions, for what tests/gpu/ptx.py writes; the opcodes that they
// execute are in tests/gpu/ptx_opcodes.py. Results are those of the PTX ISA, "Instruction Set", to
// the last bit where it says so. Compile with -ffp-contract=off.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include "simt/cuda_words.h"
#include "simt/shared_memory.h"

#define PTX_INLINE inline __attribute__((always_inline))

namespace ptx {

// ---- operands ----

// A register as a value of an instruction's type: a narrower type has its lowest bits.
template <class T, class R>
PTX_INLINE T take(R r) {
  if constexpr (std::is_same_v<T, R>) {
    return r;
  } else if constexpr (std::is_integral_v<T> && std::is_integral_v<R>) {
    static_assert(sizeof(T) <= sizeof(R));
    return static_cast<T>(r);
  } else {
    static_assert(sizeof(T) == sizeof(R));
    return simt::bits_to<T>(r);
  }
}

// A result as the bits of a register: a wider register has its sign or zeros above.
template <class R, class T>
PTX_INLINE R put(T value) {
  if constexpr (std::is_same_v<T, R>) {
    return value;
  } else if constexpr (std::is_integral_v<T> && std::is_integral_v<R>) {
    static_assert(sizeof(T) <= sizeof(R));
    return static_cast<R>(value);
  } else {
    static_assert(sizeof(T) == sizeof(R));
    return simt::bits_to<R>(value);
  }
}

// ---- addresses: generic and global ones are those of the host ----

// Shared addresses are offsets of 32 bits in a window. The dynamic memory begins here, and static
// variables lie before it.
constexpr uint32_t kDynamicAddress = uint32_t{1} << 16;
static_assert(kDynamicAddress > simt::kStaticBytes + simt::kGap);

PTX_INLINE char* shared_window() {
  return static_cast<char*>(simt::dynamic_shared()) - kDynamicAddress;
}
// `Tag` is a type of its own for each variable.
template <size_t kBytes, size_t kAlignment, class Tag>
uint32_t address_of_variable(const char* window, Tag) {
  static const char key = 0;
  const void* at = simt::static_shared(&key, kBytes, kAlignment);
  return static_cast<uint32_t>(static_cast<const char*>(at) - window);
}
PTX_INLINE char* in_shared(char* window, uint32_t address, int offset) {
  return window + static_cast<uint32_t>(address + static_cast<uint32_t>(offset));
}
PTX_INLINE char* in_memory(uint64_t address, int64_t offset) {
  return reinterpret_cast<char*>(address + static_cast<uint64_t>(offset));
}
template <class T>
PTX_INLINE T generic_of_shared(char* window, T address) {
  return reinterpret_cast<T>(in_shared(window, static_cast<uint32_t>(address), 0));
}
template <class T>
PTX_INLINE T shared_of_generic(char* window, T address) {
  return static_cast<uint32_t>(reinterpret_cast<char*>(address) - window);
}

[[noreturn]] inline void misaligned(const void* at, size_t bytes, SIMT_HERE) {
  throw simt::Error("misaligned access: " + std::to_string(bytes) +
                    " bytes at an address that is " +
                    std::to_string(reinterpret_cast<uintptr_t>(at) % bytes) +
                    " more than a multiple of that, at " + simt::name(SIMT_SITE));
}

// A GPU faults where an access of so many bytes is not aligned to them.
template <class T, size_t kCount = 1>
PTX_INLINE T* aligned(char* at, SIMT_HERE) {
  constexpr size_t kBytes = sizeof(T) * kCount;
  if (reinterpret_cast<uintptr_t>(at) % kBytes != 0) misaligned(at, kBytes, file_, line_);
  return reinterpret_cast<T*>(at);
}

// ---- loads and stores; -fno-strict-aliasing is needed ----

template <class T>
PTX_INLINE T load(char* at, SIMT_HERE) {
  return *aligned<T>(at, file_, line_);
}
template <class T, size_t kCount>
PTX_INLINE std::array<T, kCount> load_vector(char* at, SIMT_HERE) {
  const T* from = aligned<T, kCount>(at, file_, line_);
  std::array<T, kCount> result;
  for (size_t k = 0; k < kCount; ++k) result[k] = from[k];
  return result;
}
template <class T>
PTX_INLINE void store(char* at, T value, SIMT_HERE) {
  *aligned<T>(at, file_, line_) = value;
}
template <class T>
PTX_INLINE void store(char* at, T a, T b, SIMT_HERE) {
  T* to = aligned<T, 2>(at, file_, line_);
  to[0] = a;
  to[1] = b;
}
template <class T>
PTX_INLINE void store(char* at, T a, T b, T c, T d, SIMT_HERE) {
  T* to = aligned<T, 4>(at, file_, line_);
  to[0] = a;
  to[1] = b;
  to[2] = c;
  to[3] = d;
}
template <class T>
PTX_INLINE T load_volatile(char* at, SIMT_HERE) {
  T result;
  __atomic_load(aligned<T>(at, file_, line_), &result, __ATOMIC_RELAXED);
  return result;
}
template <class T>
PTX_INLINE void store_volatile(char* at, T value, SIMT_HERE) {
  __atomic_store(aligned<T>(at, file_, line_), &value, __ATOMIC_RELAXED);
}
PTX_INLINE void copy_later(char* to, char* from, uint32_t bytes, SIMT_HERE) {
  simt::copy_later(to, from, bytes, SIMT_SITE);
}
PTX_INLINE void wait_for_copies() { simt::wait_for_copies(); }

// ---- moves ----

template <class T>
PTX_INLINE T same(T a) {
  return a;
}
template <class T, class H>
PTX_INLINE T pack(H low, H high) {
  return static_cast<T>(T{low} | T{high} << (8 * sizeof(H)));
}
template <class T, class H = std::conditional_t<sizeof(T) == 8, uint32_t, uint16_t>>
PTX_INLINE std::array<H, 2> unpack(T a) {
  return {static_cast<H>(a), static_cast<H>(a >> (8 * sizeof(H)))};
}
template <class T>
PTX_INLINE T selp(T a, T b, bool first) {
  return first ? a : b;
}

// ---- integers: they wrap around ----

template <class T>
using Unsigned =
    std::conditional_t<sizeof(T) == 8, uint64_t,
                       std::conditional_t<sizeof(T) == 4, uint32_t,
                                          std::conditional_t<sizeof(T) == 2, uint16_t, uint8_t>>>;
template <class T>
constexpr uint32_t kBits = 8 * sizeof(T);
// A type in which the product of two Ts is exact.
template <class T>
using Wide =
    std::conditional_t<std::is_signed_v<T>, std::conditional_t<sizeof(T) == 8, __int128, int64_t>,
                       std::conditional_t<sizeof(T) == 8, unsigned __int128, uint64_t>>;
template <class T>  // the type of twice the width
using Twice =
    std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
                       std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>;

template <class T>
PTX_INLINE T add(T a, T b) {
  return static_cast<T>(static_cast<Unsigned<T>>(a) + static_cast<Unsigned<T>>(b));
}
template <class T>
PTX_INLINE T sub(T a, T b) {
  return static_cast<T>(static_cast<Unsigned<T>>(a) - static_cast<Unsigned<T>>(b));
}
template <class T>
PTX_INLINE T mul_lo(T a, T b) {
  return static_cast<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}
template <class T>
PTX_INLINE T mul_hi(T a, T b) {
  return static_cast<T>((Wide<T>{a} * Wide<T>{b}) >> kBits<T>);
}
template <class T>
PTX_INLINE Twice<T> mul_wide(T a, T b) {
  return static_cast<Twice<T>>(Wide<T>{a} * Wide<T>{b});
}
template <class T>
PTX_INLINE T mad_lo(T a, T b, T c) {
  return add(mul_lo(a, b), c);
}
template <class T>
PTX_INLINE Twice<T> mad_wide(T a, T b, Twice<T> c) {
  return add(mul_wide(a, b), c);
}
template <class T>
PTX_INLINE T quotient(T a, T b, SIMT_HERE) {
  if (b == 0) throw simt::Error("division by zero at " + simt::name(SIMT_SITE));
  return static_cast<T>(Wide<T>{a} / Wide<T>{b});
}
template <class T>
PTX_INLINE T remainder(T a, T b, SIMT_HERE) {
  if (b == 0) throw simt::Error("remainder of a division by zero at " + simt::name(SIMT_SITE));
  return static_cast<T>(Wide<T>{a} % Wide<T>{b});
}
template <class T>
PTX_INLINE T least(T a, T b) {
  return b < a ? b : a;
}
template <class T>
PTX_INLINE T greatest(T a, T b) {
  return a < b ? b : a;
}
template <class T>
PTX_INLINE T negative(T a) {
  return sub(T{0}, a);
}
template <class T>
PTX_INLINE T absolute(T a) {
  return a < 0 ? negative(a) : a;
}
template <class T>
PTX_INLINE T bit_and(T a, T b) {
  return static_cast<T>(a & b);
}
template <class T>
PTX_INLINE T bit_or(T a, T b) {
  return static_cast<T>(a | b);
}
template <class T>
PTX_INLINE T bit_xor(T a, T b) {
  return static_cast<T>(a ^ b);
}
template <class T>
PTX_INLINE T bit_not(T a) {
  if constexpr (std::is_same_v<T, bool>) {
    return !a;
  } else {
    return static_cast<T>(~a);
  }
}
template <class T>
PTX_INLINE T shl(T a, uint32_t count) {
  return count < kBits<T> ? static_cast<T>(uint64_t{a} << count) : T{0};
}
template <class T>
PTX_INLINE T shr(T a, uint32_t count) {
  return static_cast<T>(a >> std::min(count, kBits<T> - 1)) &
         (std::is_signed_v<T> || count < kBits<T> ? static_cast<T>(-1) : T{0});
}
template <class T>
PTX_INLINE uint32_t popc(T a) {
  return static_cast<uint32_t>(__builtin_popcountll(a));
}
template <class T>
PTX_INLINE uint32_t clz(T a) {
  return a == 0 ? kBits<T> : static_cast<uint32_t>(__builtin_clzll(a)) - (64 - kBits<T>);
}
template <class T>
inline T brev(T a) {
  T result = 0;
  for (uint32_t k = 0; k < kBits<T>; ++k) result |= (a >> k & 1) << (kBits<T> - 1 - k);
  return result;
}
// The place of the highest bit that is not the sign, or ~0.
template <class T>
PTX_INLINE uint32_t bfind(T a) {
  return kBits<T> - 1 - clz(static_cast<Unsigned<T>>(a < 0 ? ~a : a));
}
template <class T>
PTX_INLINE uint32_t bfind_shiftamt(T a) {
  const uint32_t place = bfind(a);
  return place == ~uint32_t{0} ? place : kBits<T> - 1 - place;
}
template <class T>
inline T bfe(T a, uint32_t begin, uint32_t length) {
  begin &= 255;
  length &= 255;
  const Unsigned<T> bits = static_cast<Unsigned<T>>(a);
  const bool sign =
      std::is_signed_v<T> && length > 0 && (bits >> std::min(begin + length - 1, kBits<T> - 1) & 1);
  Unsigned<T> result = 0;
  for (uint32_t k = 0; k < kBits<T>; ++k) {
    const bool inside = k < length && begin + k < kBits<T>;
    result |= Unsigned<T>{inside ? bool(bits >> (begin + k) & 1) : sign} << k;
  }
  return static_cast<T>(result);
}
template <class T>
inline T bfi(T from, T into, uint32_t begin, uint32_t length) {
  begin &= 255;
  length &= 255;
  for (uint32_t k = 0; k < length && begin + k < kBits<T>; ++k) {
    const T bit = T{1} << (begin + k);
    into = (from >> k & 1) ? into | bit : into & ~bit;
  }
  return into;
}

// ---- floating point: to nearest, subnormal numbers are kept ----

// NaNs of single precision have one form on a GPU.
template <class T>
PTX_INLINE T canonical(T a) {
  if constexpr (sizeof(T) == 4) return a == a ? a : simt::bits_to<T>(uint32_t{0x7fffffff});
  return a;
}
template <class T>
PTX_INLINE T float_add(T a, T b) {
  return canonical(a + b);
}
template <class T>
PTX_INLINE T float_sub(T a, T b) {
  return canonical(a - b);
}
template <class T>
PTX_INLINE T float_mul(T a, T b) {
  return canonical(a * b);
}
template <class T>
PTX_INLINE T float_div(T a, T b) {
  return canonical(a / b);
}
template <class T>
PTX_INLINE T fma(T a, T b, T c) {
  return canonical(std::fma(a, b, c));
}
template <class T>
PTX_INLINE T square_root(T a) {
  return canonical(std::sqrt(a));
}
template <class T>
PTX_INLINE T inverse(T a) {
  return canonical(1 / a);
}
template <class T>
PTX_INLINE T flushed(T a) {
  return std::fabs(a) < std::numeric_limits<T>::min() ? std::copysign(T{0}, a) : a;
}
// A GPU has about 22 of the 24 digits right.
template <class T>
PTX_INLINE T rough_inverse(T a) {
  return canonical(flushed(1 / flushed(a)));
}
// A number is preferred to NaN, and -0 is less than +0.
template <class T>
PTX_INLINE T float_min(T a, T b) {
  if (a != a) return canonical(b);
  if (b != b) return a;
  return a < b || (a == b && std::signbit(a)) ? a : b;
}
template <class T>
PTX_INLINE T float_max(T a, T b) {
  if (a != a) return canonical(b);
  if (b != b) return a;
  return a > b || (a == b && !std::signbit(a)) ? a : b;
}
template <class T>
PTX_INLINE T float_abs(T a) {
  return std::fabs(a);
}
template <class T>
PTX_INLINE T float_neg(T a) {
  return -a;
}

// ---- comparisons: C++ has those that are false for NaN, but for != ----

template <class T>
PTX_INLINE bool eq(T a, T b) {
  return a == b;
}
template <class T>
PTX_INLINE bool ne(T a, T b) {
  return a != b;
}
template <class T>
PTX_INLINE bool lt(T a, T b) {
  return a < b;
}
template <class T>
PTX_INLINE bool le(T a, T b) {
  return a <= b;
}
template <class T>
PTX_INLINE bool gt(T a, T b) {
  return a > b;
}
template <class T>
PTX_INLINE bool ge(T a, T b) {
  return a >= b;
}
template <class T>
PTX_INLINE bool ordered_ne(T a, T b) {
  return a < b || a > b;
}
template <class T>
PTX_INLINE bool equ(T a, T b) {
  return !ordered_ne(a, b);
}
template <class T>
PTX_INLINE bool ltu(T a, T b) {
  return !(a >= b);
}
template <class T>
PTX_INLINE bool leu(T a, T b) {
  return !(a > b);
}
template <class T>
PTX_INLINE bool gtu(T a, T b) {
  return !(a <= b);
}
template <class T>
PTX_INLINE bool geu(T a, T b) {
  return !(a < b);
}
template <class T>
PTX_INLINE bool both_numbers(T a, T b) {
  return a == a && b == b;
}
template <class T>
PTX_INLINE bool any_nan(T a, T b) {
  return a != a || b != b;
}

// ---- conversions ----

template <class To, class From>
PTX_INLINE To cut(From a) {
  return static_cast<To>(a);
}
template <class To, class From>
PTX_INLINE To saturated(From a) {
  using Limits = std::numeric_limits<To>;
  const __int128 value = a;
  return static_cast<To>(std::clamp<__int128>(value, Limits::min(), Limits::max()));
}
template <class To, class From>
PTX_INLINE To rounded_integer(From a) {
  return static_cast<To>(a);
}
enum class Round { kNearest, kZero, kDown, kUp };
template <class T, Round kHow>
PTX_INLINE T round(T a) {
  switch (kHow) {
    case Round::kNearest:
      return canonical(std::nearbyint(a));
    case Round::kZero:
      return canonical(std::trunc(a));
    case Round::kDown:
      return canonical(std::floor(a));
    default:
      return canonical(std::ceil(a));
  }
}
// Beyond the range it is the nearest number of the range.
template <class To, class From, Round kHow>
PTX_INLINE To whole(From a) {
  using Limits = std::numeric_limits<To>;
  constexpr bool kWide = sizeof(From) == 8 || sizeof(To) == 8;
  if (a != a) return kWide ? static_cast<To>(Unsigned<To>{1} << (kBits<To> - 1)) : To{0};
  const From number = round<From, kHow>(a);
  if (number <= static_cast<From>(Limits::min())) return Limits::min();
  // A power of two: what lies below has a whole number below.
  if (number >= std::ldexp(From{1}, Limits::digits)) return Limits::max();
  return static_cast<To>(number);
}
PTX_INLINE double widened(float a) { return a; }
PTX_INLINE float narrowed(double a) { return canonical(static_cast<float>(a)); }
PTX_INLINE float widened_half(uint16_t a) { return canonical(simt::from_half(a)); }
PTX_INLINE uint16_t narrowed_to_half(float a) { return a == a ? simt::to_half(a) : 0x7fff; }

// ---- atomics ----

template <class T, class F>
PTX_INLINE T atomic(char* at, F change, SIMT_HERE) {
  return simt::read_modify_write(aligned<T>(at, file_, line_), change);
}
#define PTX_ATOMIC(name, result)                                           \
  template <class T>                                                       \
  PTX_INLINE T name(char* at, T value, SIMT_HERE) {                        \
    return atomic<T>(at, [value](T old) { return result; }, file_, line_); \
  }
PTX_ATOMIC(atomic_min, least(old, value))
PTX_ATOMIC(atomic_max, greatest(old, value))
PTX_ATOMIC(atomic_and, bit_and(old, value))
PTX_ATOMIC(atomic_or, bit_or(old, value))
PTX_ATOMIC(atomic_xor, bit_xor(old, value))
PTX_ATOMIC(atomic_exchange, ((void)old, value))
#undef PTX_ATOMIC
template <class T>
PTX_INLINE T atomic_add(char* at, T value, SIMT_HERE) {
  const auto sum = [value](T old) {
    if constexpr (std::is_integral_v<T>) {
      return add(old, value);
    } else {
      return float_add(old, value);
    }
  };
  return atomic<T>(at, sum, file_, line_);
}
template <class T>
PTX_INLINE T atomic_compare(char* at, T expected, T value, SIMT_HERE) {
  return atomic<T>(at, [=](T old) { return old == expected ? value : old; }, file_, line_);
}
PTX_INLINE void fence() { simt::fence(); }
template <class T>
PTX_INLINE void nanosleep(T) {
  simt::yield();
}
[[noreturn]] inline void trap(SIMT_HERE) { throw simt::Error("trap at " + simt::name(SIMT_SITE)); }

// ---- threads together ----

PTX_INLINE void bar_sync(SIMT_HERE) { simt::block_barrier(0, simt::Vote::kNone, SIMT_SITE); }
template <class T, simt::Vote kVote>
PTX_INLINE T bar_red(bool predicate, SIMT_HERE) {
  return static_cast<T>(simt::block_barrier(predicate, kVote, SIMT_SITE));
}
PTX_INLINE void bar_warp_sync(uint32_t mask, SIMT_HERE) {
  simt::warp_collective(simt::Collective::kSync, mask, 0, 0, 32, SIMT_SITE);
}

// The width that `c` of a shuffle says, which CUDA writes so for a power of two.
inline int width_of_shuffle(uint32_t c, uint32_t clamp, simt::Site site) {
  const uint32_t width = 32 - (c >> 8 & 31);
  if ((c & 31) != clamp || (width & (width - 1)) != 0) {
    throw simt::Error("a shuffle whose third operand is " + std::to_string(c) +
                      ", which stands for no width that CUDA has, at " + simt::name(site));
  }
  return static_cast<int>(width);
}
inline int lane() {
  const dim3 size = simt::running->block_size;
  const uint3 index = simt::running->index;
  return static_cast<int>((index.x + size.x * (index.y + size.y * index.z)) % 32);
}
PTX_INLINE std::pair<uint32_t, bool> shuffle(simt::Collective what, uint32_t a, uint32_t by,
                                             int width, uint32_t mask, simt::Site site) {
  const int amount = static_cast<int>(by & 31), me = lane();
  const int begin = me & ~(width - 1), end = begin + width;
  const bool inside = what == simt::Collective::kShuffleUp     ? me - amount >= begin
                      : what == simt::Collective::kShuffleDown ? me + amount < end
                      : what == simt::Collective::kShuffleXor  ? (me ^ amount) < end
                                                               : true;
  return {static_cast<uint32_t>(simt::warp_collective(what, mask, a, amount, width, site)), inside};
}
#define PTX_SHUFFLE(name, what, clamp)                                                         \
  PTX_INLINE std::pair<uint32_t, bool> name(uint32_t a, uint32_t b, uint32_t c, uint32_t mask, \
                                            SIMT_HERE) {                                       \
    return shuffle(simt::Collective::what, a, b, width_of_shuffle(c, clamp, SIMT_SITE), mask,  \
                   SIMT_SITE);                                                                 \
  }
PTX_SHUFFLE(shfl_idx, kShuffle, 31)
PTX_SHUFFLE(shfl_up, kShuffleUp, 0)
PTX_SHUFFLE(shfl_down, kShuffleDown, 31)
PTX_SHUFFLE(shfl_bfly, kShuffleXor, 31)
#undef PTX_SHUFFLE

PTX_INLINE uint32_t vote_ballot(bool predicate, uint32_t mask, SIMT_HERE) {
  return static_cast<uint32_t>(
      simt::warp_collective(simt::Collective::kBallot, mask, predicate, 0, 32, SIMT_SITE));
}
PTX_INLINE bool vote_any(bool predicate, uint32_t mask, SIMT_HERE) {
  return vote_ballot(predicate, mask, file_, line_) != 0;
}
PTX_INLINE bool vote_all(bool predicate, uint32_t mask, SIMT_HERE) {
  return vote_ballot(!predicate, mask, file_, line_) == 0;
}
template <class T>
PTX_INLINE uint32_t match_any(T a, uint32_t mask, SIMT_HERE) {
  return static_cast<uint32_t>(
      simt::warp_collective(simt::Collective::kMatch, mask, a, 0, 32, SIMT_SITE));
}
template <class T, simt::Collective kWhat>
PTX_INLINE T redux(T a, uint32_t mask, SIMT_HERE) {
  return static_cast<T>(
      simt::warp_collective(kWhat, mask, static_cast<uint32_t>(a), 0, 32, SIMT_SITE));
}
template <class T>
PTX_INLINE T redux_min(T a, uint32_t mask, SIMT_HERE) {
  constexpr auto kWhat =
      std::is_signed_v<T> ? simt::Collective::kMinSigned : simt::Collective::kMinUnsigned;
  return redux<T, kWhat>(a, mask, file_, line_);
}
template <class T>
PTX_INLINE T redux_max(T a, uint32_t mask, SIMT_HERE) {
  constexpr auto kWhat =
      std::is_signed_v<T> ? simt::Collective::kMaxSigned : simt::Collective::kMaxUnsigned;
  return redux<T, kWhat>(a, mask, file_, line_);
}

}  // namespace ptx
