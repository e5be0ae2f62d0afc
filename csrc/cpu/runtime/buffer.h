// Scratch memory, aligned to a cache line so that vector loads never split one.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>
#include <cstdio>
#include <limits>
#include <new>

namespace tsloss {

constexpr int64_t kAlignment = 64;

// Memory that cannot be had, and how much that was; the text stands in the exception itself.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(double bytes) noexcept {
    std::snprintf(text_, sizeof text_, "tsloss_fast: cannot allocate %.0f bytes", bytes);
  }
  const char* what() const noexcept override { return text_; }

 private:
  char text_[96];
};

// Product of sizes: that of things of `unit` bytes, which cannot be had where it does not fit.
inline int64_t checked_mul(int64_t a, int64_t b, int64_t unit = 1) {
  if (a != 0 && b > std::numeric_limits<int64_t>::max() / a) {
    throw OutOfMemory(double(a) * double(b) * double(unit));
  }
  return a * b;
}

inline int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// Grows, never shrinks; the contents are not kept across a growth.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { release(); }

  T* reserve(int64_t count) {
    if (count > capacity_) {
      const int64_t bytes = checked_mul(count, static_cast<int64_t>(sizeof(T)));
      release();
      large_ = bytes >= kHugePage;
      data_ =
          static_cast<T*>(::operator new(static_cast<size_t>(bytes), alignment(), std::nothrow));
      if (!data_) throw OutOfMemory(double(bytes));
      capacity_ = count;
#if defined(__linux__)
      // Fresh memory comes in pages of 4 KiB, at a microsecond or more each, unless asked
      // otherwise.
      if (large_) madvise(data_, static_cast<size_t>(bytes), MADV_HUGEPAGE);
#endif
    }
    return data_;
  }

  T* reserve(int64_t rows, int64_t columns) {
    return reserve(checked_mul(rows, columns, static_cast<int64_t>(sizeof(T))));
  }

  T* data() const { return data_; }

  int64_t bytes() const { return capacity_ * static_cast<int64_t>(sizeof(T)); }

 private:
  static constexpr int64_t kHugePage = int64_t{2} << 20;

  std::align_val_t alignment() const {
    return std::align_val_t(static_cast<size_t>(large_ ? kHugePage : kAlignment));
  }

  void release() {
    ::operator delete(data_, alignment());
    data_ = nullptr;
    capacity_ = 0;
  }

  T* data_ = nullptr;
  int64_t capacity_ = 0;
  bool large_ = false;
};

}  // namespace tsloss
