// Shared memory of a block on the host executor.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

namespace simt {

constexpr size_t kStaticBytes = size_t{48} << 10;   // what a kernel may declare
constexpr size_t kSharedBytes = size_t{227} << 10;  // static and dynamic, of a block on sm_90
constexpr size_t kGap = 32;                         // between variables, for AddressSanitizer

// Of exact size, and junk at first.
class Arena {
 public:
  Arena(size_t dynamic, unsigned char fill)
      : size_((kStaticBytes + kGap + dynamic + 15) / 16 * 16),
        memory_(static_cast<char*>(std::aligned_alloc(16, size_)), std::free) {
    if (!memory_) throw std::bad_alloc();
    std::memset(memory_.get(), fill, size_);
    ASAN_POISON_MEMORY_REGION(memory_.get(), size_);
    ASAN_UNPOISON_MEMORY_REGION(this->dynamic(), dynamic);
    variables_.reserve(64);  // nothing may be allocated by a fiber
  }
  ~Arena() { ASAN_UNPOISON_MEMORY_REGION(memory_.get(), size_); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  char* dynamic() { return memory_.get() + kStaticBytes + kGap; }

  // Null: there is no room.
  char* variable(const void* key, size_t bytes, size_t alignment) {
    for (const auto& [known, at] : variables_) {
      if (known == key) return at;
    }
    const size_t step = std::max<size_t>(alignment, 16);
    const size_t begin = (used_ + step - 1) / step * step;
    if (begin + bytes > kStaticBytes || variables_.size() == variables_.capacity()) return nullptr;
    char* at = memory_.get() + begin;
    used_ = begin + bytes + kGap;
    ASAN_UNPOISON_MEMORY_REGION(at, bytes);
    variables_.emplace_back(key, at);
    return at;
  }

 private:
  size_t size_;
  std::unique_ptr<char, void (*)(void*)> memory_;
  size_t used_ = 0;
  std::vector<std::pair<const void*, char*>> variables_;
};

}  // namespace simt
