// Cooperative fibers: a stack each, switched by hand, known to the sanitizers.
#pragma once

#include <cstddef>
#include <vector>

#if defined(__x86_64__) && !defined(SIMT_UCONTEXT)
#define SIMT_ASM_SWITCH 1
#else
#include <ucontext.h>
#endif

namespace simt {

// How many stacks and fibers outlive a launch: a process may map 65530 regions.
constexpr size_t kKept = 5000;

// Stacks with a guard page below, so that an overflow faults and does not corrupt a neighbour.
class StackPool {
 public:
  struct Stack {
    char* base = nullptr;
    size_t size = 0;
  };
  explicit StackPool(size_t bytes) : bytes_(bytes) {}
  ~StackPool();
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;

  Stack take();
  void give(Stack stack) { free_.push_back(stack); }
  // Nobody stands on any of them any more. Some are kept.
  void give_all();
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_;
  std::vector<Stack> free_;
  std::vector<Stack> all_;
};

class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // This fiber is the code that runs already.
  void adopt();
  // It will run entry(), which must not return, on this stack.
  void start(StackPool::Stack stack, void (*entry)());
  // After its last switch.
  void finish();

  // A launch has ended. ThreadSanitizer may use the names of its fibers again, which costs far less
  // than new ones.
  static void forget_finished();

  // From the fiber that runs, which is this one, to another. `last`: it never comes back.
  void switch_to(Fiber& to, bool last = false);
  // The first thing in entry(). `root`: the adopted fiber.
  static void arrived(Fiber& root);

  StackPool::Stack stack;

 private:
#ifdef SIMT_ASM_SWITCH
  void* top_ = nullptr;
#else
  ucontext_t context_;
#endif
  void* fake_stack_ = nullptr;  // of AddressSanitizer
  void* tsan_ = nullptr;        // of ThreadSanitizer
};

// What ThreadSanitizer is told of the order of things; nothing without it. The executor itself is
// not instrumented.
void happens_before(void* at);  // what this fiber did so far comes before
void happens_after(void* at);   // what it does from now on

}  // namespace simt
