// Runs CUDA kernels on the host, for tests: a cooperative fiber for each CUDA thread. What a kernel
// may use of CUDA is in cuda_words.h. Not part of the package.
//
// It checks what a GPU leaves undefined: barriers that not all threads of a block reach, or reach
// at different places; shuffles from lanes that take no part; deadlocks and loops that wait for
// ever. Shared memory has its exact size and starts as junk. With AddressSanitizer every access is
// checked; with ThreadSanitizer every CUDA thread is a thread of its own, ordered by barriers and
// atomics alone, so that races are found whatever the schedule was.
//
// A launch beyond the limits of a GPU of sm_90 is an error: threads, registers, shared memory,
// grid.
//
// Two forms of the kernels run on it: the source, compiled by g++, and the PTX that nvcc writes,
// translated by tests/gpu/ptx.py. Not modelled: what ptxas makes of PTX, weak memory order beyond
// what ThreadSanitizer knows, warps in lockstep, the CUDA runtime, speed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace simt {

enum class Order : int { kForward, kReverse, kLifo, kRandom };

struct Options {
  Order order = Order::kRandom;
  uint64_t seed = 1;
  unsigned preempt = 0;       // forced switches at atomics, one in about so many; 0: none
  unsigned resident = 2;      // blocks that run side by side
  std::string drop;           // mutation: the __syncthreads of this place is passed without waiting
  unsigned char fill = 0xff;  // bytes of fresh shared memory (0xff..: NaN)
  size_t stack_bytes = size_t{64} << 10;
  uint64_t switches = 1000000;  // of a block, after which it is taken to loop for ever
};

// What is wrong with a kernel, and where.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Site {
  const char* file;
  int line;
};
std::string name(Site site);  // as messages have it

// Of a copy that the thread has not waited for yet.
struct LateCopy {
  void* to;
  const void* from;
  size_t bytes;
};

// What a CUDA thread knows of itself.
struct Thread {
  uint3 index, block;
  dim3 block_size, grid_size;
  std::vector<LateCopy> copies;
};

extern thread_local Thread* running;  // null outside kernels
extern thread_local Options options;

// What the compiler made of a kernel, which limits its launches.
struct KernelLimits {
  unsigned threads = 1024;   // of a block: __launch_bounds__, or .maxntid in PTX
  unsigned registers = 0;    // of a thread
  size_t static_shared = 0;  // bytes
};
// Throws Error if a GPU of sm_90 would refuse the launch.
void check_launch(dim3 grid, dim3 block, int64_t dynamic_shared, const KernelLimits& kernel);

// Runs a kernel: `body` once for each CUDA thread. Checks the launch first. Throws Error.
void run(dim3 grid, dim3 block, int64_t dynamic_shared, const std::function<void()>& body,
         const KernelLimits& kernel = {});

// Distinct places of __syncthreads seen so far, as `drop` takes them. Those that count votes are
// not among them: a thread cannot go on without the count.
std::vector<std::string> barrier_sites();
void forget_barrier_sites();

// For cuda_words.h.
enum class Vote : int { kNone, kCount, kAnd, kOr };
enum class Collective : int {
  kSync,
  kBallot,
  kShuffle,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kMatch,
  kAdd,
  kMinUnsigned,
  kMaxUnsigned,
  kMinSigned,
  kMaxSigned,
  kAnd,
  kOr,
  kXor,
};
int block_barrier(int predicate, Vote vote, Site site);
uint64_t warp_collective(Collective what, unsigned mask, uint64_t value, int argument, int width,
                         Site site);
void* dynamic_shared();
void* static_shared(const void* key, size_t bytes, size_t alignment);
void before_atomic();  // a place where another thread may come in between
uint64_t atomics();    // how many this host thread has run, in all its launches
void fence();
void yield();

}  // namespace simt
