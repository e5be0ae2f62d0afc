// Every form of operator new, one of whose calls fails when it is told to. Included by one file of
// a program or library, whose allocations, and those of what it loads, then come from here.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace failing {

inline std::atomic<long> left{-1};  // allocations until one fails; below 0: none does
inline std::atomic<bool> from_then_on{false};
inline std::atomic<long> failures{0};

inline bool fails() {
  if (left.load() < 0) return false;
  const long before = left.fetch_sub(1);
  if (before > 0) return false;
  left.store(from_then_on ? 0 : -1);
  ++failures;
  return true;
}

inline void* allocate(size_t size, size_t alignment) noexcept {
  if (fails()) return nullptr;
  if (alignment <= alignof(std::max_align_t)) return std::malloc(std::max<size_t>(size, 1));
  void* memory = nullptr;
  return posix_memalign(&memory, alignment, std::max<size_t>(size, 1)) == 0 ? memory : nullptr;
}

inline void* allocate_or_throw(size_t size, size_t alignment) {
  void* memory = allocate(size, alignment);
  if (!memory) throw std::bad_alloc();
  return memory;
}

}  // namespace failing

void* operator new(size_t n) { return failing::allocate_or_throw(n, 1); }
void* operator new[](size_t n) { return failing::allocate_or_throw(n, 1); }
void* operator new(size_t n, std::align_val_t a) {
  return failing::allocate_or_throw(n, size_t(a));
}
void* operator new[](size_t n, std::align_val_t a) {
  return failing::allocate_or_throw(n, size_t(a));
}
void* operator new(size_t n, const std::nothrow_t&) noexcept { return failing::allocate(n, 1); }
void* operator new[](size_t n, const std::nothrow_t&) noexcept { return failing::allocate(n, 1); }
void* operator new(size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return failing::allocate(n, size_t(a));
}
void* operator new[](size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return failing::allocate(n, size_t(a));
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t, std::align_val_t) noexcept { std::free(p); }
