#include "simt/fiber.h"

#include <sys/mman.h>

#include <new>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef SIMT_TSAN  // this file itself is compiled without -fsanitize=thread
#include <sanitizer/tsan_interface.h>
#endif

namespace simt {
namespace {

constexpr size_t kPage = 4096;

#ifdef SIMT_ASM_SWITCH
// Callee-saved registers go to the old stack, whose top is stored, and come from the new one.
__attribute__((naked, noinline)) void swap_stacks(void** /*store*/, void* /*top*/) {
  asm volatile(
      "push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15;"
      "mov %rsp, (%rdi); mov %rsi, %rsp;"
      "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret");
}
constexpr int kSavedRegisters = 6;
#endif

#ifdef SIMT_TSAN
std::vector<void*> idle, finished;
char start_order;
#endif

}  // namespace

StackPool::Stack StackPool::take() {
  if (!free_.empty()) {
    const Stack stack = free_.back();
    free_.pop_back();
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(stack.base, stack.size);  // frames that were left without returning
#endif
    return stack;
  }
  void* memory = mmap(nullptr, bytes_ + kPage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, kPage, PROT_NONE);
  all_.push_back({static_cast<char*>(memory) + kPage, bytes_});
  return all_.back();
}

void StackPool::give_all() {
  while (all_.size() > kKept) {
    munmap(all_.back().base - kPage, all_.back().size + kPage);
    all_.pop_back();
  }
  free_ = all_;
}

StackPool::~StackPool() {
  for (const Stack& stack : all_) munmap(stack.base - kPage, stack.size + kPage);
}

void Fiber::adopt() {
  stack = {};
#ifdef SIMT_TSAN
  tsan_ = __tsan_get_current_fiber();
#endif
}

void Fiber::start(StackPool::Stack on, void (*entry)()) {
  stack = on;
  fake_stack_ = nullptr;
#ifdef SIMT_ASM_SWITCH
  // `ret` finds entry; above it a null return address, which leaves the stack as a call would.
  void** top = reinterpret_cast<void**>(stack.base + stack.size);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int k = 0; k < kSavedRegisters; ++k) *--top = nullptr;
  top_ = top;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack.base;
  context_.uc_stack.ss_size = stack.size;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#endif
#ifdef SIMT_TSAN
  if (idle.empty()) {
    tsan_ = __tsan_create_fiber(0);
  } else {
    tsan_ = idle.back();
    idle.pop_back();
  }
  happens_before(&start_order);
#endif
}

void Fiber::finish() {
#ifdef SIMT_TSAN
  finished.push_back(tsan_);
#endif
}

void Fiber::forget_finished() {
#ifdef SIMT_TSAN
  idle.insert(idle.end(), finished.begin(), finished.end());
  finished.clear();
  while (idle.size() > kKept) {
    __tsan_destroy_fiber(idle.back());
    idle.pop_back();
  }
#endif
}

void Fiber::switch_to(Fiber& to, [[maybe_unused]] bool last) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack_, to.stack.base, to.stack.size);
#endif
#ifdef SIMT_TSAN
  // A switch is no synchronisation between CUDA threads.
  __tsan_switch_to_fiber(to.tsan_, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef SIMT_ASM_SWITCH
  swap_stacks(&top_, to.top_);
#else
  swapcontext(&context_, &to.context_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
}

void Fiber::arrived([[maybe_unused]] Fiber& root) {
#ifdef SIMT_TSAN
  happens_after(&start_order);
#endif
#if defined(__SANITIZE_ADDRESS__)
  // Only here are the bounds of the stack that everything started from told.
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (!root.stack.base) root.stack = {static_cast<char*>(const_cast<void*>(bottom)), size};
#endif
}

void happens_before([[maybe_unused]] void* at) {
#ifdef SIMT_TSAN
  __tsan_release(at);
#endif
}

void happens_after([[maybe_unused]] void* at) {
#ifdef SIMT_TSAN
  __tsan_acquire(at);
#endif
}

}  // namespace simt
