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

// The exception of an allocation that failed, whose message names its size. The text is part of the
// exception, since there may be no memory for it.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(double bytes) noexcept {
    std::snprintf(text_, sizeof text_, "tsloss_fast: cannot allocate %.0f bytes", bytes);
  }
  const char* what() const noexcept override { return text_; }

 private:
  char text_[96];
};

// The product of two sizes. If it overflows, throws OutOfMemory for that many things of `unit`
// bytes.
inline int64_t checked_mul(int64_t a, int64_t b, int64_t unit = 1) {
  if (a != 0 && b > std::numeric_limits<int64_t>::max() / a) {
    throw OutOfMemory(double(a) * double(b) * double(unit));
  }
  return a * b;
}

inline int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// Memory that grows and never shrinks. When it grows, the contents are lost.
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
      // Without this advice, fresh memory comes in pages of 4 KiB, at a microsecond or more each.
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
