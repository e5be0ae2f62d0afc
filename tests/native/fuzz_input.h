// Bytes of a fuzzer -> sizes, choices and clouds; and memory that ends where the data end.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>
#include <vector>

#include "cpu/runtime/random.h"
#include "tsloss.h"

namespace fuzz {

// A property does not hold: the sanitizers' way of saying so is a crash with a stack.
[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "PROPERTY BROKEN: %s\n", what);
  std::abort();
}

inline void require(bool holds, const char* what) {
  if (!holds) fail(what);
}

class Input {
 public:
  Input(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}

  // Zeros at the end: every input is a valid one.
  uint8_t byte() { return at_ < end_ ? *at_++ : 0; }
  int64_t below(int64_t limit) { return limit > 1 ? byte() % limit : 0; }
  bool flag() { return byte() & 1; }
  uint64_t word() {
    uint64_t w = 0;
    for (int k = 0; k < 8; ++k) w = w << 8 | byte();
    return w;
  }
  size_t left() const { return static_cast<size_t>(end_ - at_); }

 private:
  const uint8_t* at_;
  const uint8_t* end_;
};

struct Random : tsloss::Random {
  double uniform() { return double((*this)() >> 11) * 0x1p-53; }
  double normal() {
    double sum = 0;
    for (int k = 0; k < 12; ++k) sum += uniform();
    return sum - 6;
  }
};

// An array of its own allocation, to the byte, `shift` numbers behind a cache line: an access one
// byte before or behind it is seen by AddressSanitizer.
template <class T>
class Array {
 public:
  explicit Array(int64_t count, int shift = 0)
      : count_(count), shift_(shift % (64 / static_cast<int>(sizeof(T)))) {
    const size_t bytes = static_cast<size_t>(count_ + shift_) * sizeof(T);
    base_ = static_cast<T*>(::operator new(bytes, std::align_val_t{64}));
    std::memset(static_cast<void*>(base_), 0xa5, bytes);
  }
  Array(int64_t count, int shift, T value) : Array(count, shift) {
    std::fill_n(data(), count, value);
  }
  Array(Array&& other) noexcept : base_(other.base_), count_(other.count_), shift_(other.shift_) {
    other.base_ = nullptr;
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { ::operator delete(base_, std::align_val_t{64}); }

  T* data() { return base_ + shift_; }
  const T* data() const { return base_ + shift_; }
  int64_t size() const { return count_; }
  T& operator[](int64_t k) { return data()[k]; }
  const T& operator[](int64_t k) const { return data()[k]; }

  bool operator==(const Array& other) const {
    return count_ == other.count_ &&
           std::memcmp(data(), other.data(), static_cast<size_t>(count_) * sizeof(T)) == 0;
  }

 private:
  T* base_;
  int64_t count_;
  int shift_;
};

// The same numbers; NaN is NaN, whatever its bits.
template <class T>
bool same_numbers(const Array<T>& a, const Array<T>& b) {
  for (int64_t k = 0; k < a.size(); ++k) {
    if (std::memcmp(&a[k], &b[k], sizeof(T)) != 0 && !(std::isnan(a[k]) && std::isnan(b[k]))) {
      return false;
    }
  }
  return a.size() == b.size();
}

template <class T>
constexpr tsloss::Dtype dtype_of() {
  return sizeof(T) == 8 ? tsloss::Dtype::kFloat64 : tsloss::Dtype::kFloat32;
}

// A number of any bits.
template <class T>
T raw(uint64_t word) {
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  const Bits bits = static_cast<Bits>(sizeof(T) == 8 ? word : word >> 32);
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// What a cloud is made of. Each but kRaw needs a few bytes of the input for any number of values.
enum class Kind { kRaw, kPalette, kNormal, kLattice, kClusters, kCopies, kScales, kKinds };

template <class T>
void fill(Input& in, T* out, int64_t rows, int64_t dim) {
  const Kind kind = static_cast<Kind>(in.below(static_cast<int64_t>(Kind::kKinds)));
  const bool finite = in.byte() % 8 != 0;
  const int range = sizeof(T) == 8 ? 1060 : 140;
  const int exponent = in.byte();
  // Half of all clouds are of an ordinary size.
  const int scale = exponent < 128 ? 0 : (exponent - 192) * range / 64;
  Random random{in.word()};
  std::vector<T> palette;
  for (int64_t k = 1 + in.below(9); k > 0; --k) palette.push_back(raw<T>(in.word()));
  const int64_t count = rows * dim;
  for (int64_t k = 0; k < count; ++k) {
    double x = 0;
    const int64_t row = dim > 0 ? k / dim : 0;
    switch (kind) {
      case Kind::kRaw:
        out[k] = in.left() > 0 ? raw<T>(in.word()) : palette[random() % palette.size()];
        continue;
      case Kind::kPalette:
        out[k] = palette[random() % palette.size()];
        continue;
      case Kind::kNormal:
        x = random.normal();
        break;
      case Kind::kLattice:
        x = double(random() % (palette.size() + 1));
        break;
      case Kind::kClusters: {
        Random centre{random.state % 3 + uint64_t(k - row * dim)};
        x = 1e3 * centre.normal() + 1e-4 * random.normal();
        break;
      }
      case Kind::kCopies:
        if (row > 0 && random() % 8 != 0) {
          out[k] = out[k - dim * (1 + int64_t(random() % 3) % row)];
          continue;
        }
        x = double(random() % 3) * 0.1;
        break;
      default:
        x = std::ldexp(random.normal(), static_cast<int>(random() % unsigned(range)) - range / 2);
    }
    out[k] = static_cast<T>(std::ldexp(x, scale));
  }
  for (int64_t k = 0; k < count && finite; ++k) {
    if (!std::isfinite(out[k])) out[k] = static_cast<T>(k % 5);
  }
}

// Sizes around the ends of vectors, panels (16) and tiles (48), and some above.
inline int64_t size_of(Input& in, int64_t most) {
  constexpr int64_t kSizes[] = {0,  1,  2,  3,  4,  5,  7,  8,  9,   15,  16,  17,
                                31, 33, 47, 48, 49, 64, 96, 97, 130, 145, 200, 300};
  return std::min(kSizes[in.below(24)], most);
}

}  // namespace fuzz
