#include "simt/executor.h"

#include "simt/scheduler.h"

namespace simt {

thread_local Thread* running = nullptr;
thread_local Options options;

namespace {

void expect_kernel(const char* what) {
  if (!running) throw Error(std::string(what) + " outside a kernel");
}

}  // namespace

std::string name(Site site) {
  return std::string(site.file ? site.file : "?") + ":" + std::to_string(site.line);
}

void run(dim3 grid, dim3 block, int64_t dynamic, const std::function<void()>& body,
         const KernelLimits& kernel) {
  check_launch(grid, block, dynamic, kernel);
  Scheduler::get().launch(grid, block, static_cast<size_t>(dynamic), body);
}

std::vector<std::string> barrier_sites() {
  std::vector<std::string> names;
  for (const Site& site : Scheduler::get().sites) names.push_back(name(site));
  return names;
}

void forget_barrier_sites() { Scheduler::get().sites.clear(); }

int block_barrier(int predicate, Vote vote, Site site) {
  expect_kernel("__syncthreads");
  return Scheduler::get().barrier(predicate, vote, site);
}

uint64_t warp_collective(Collective what, unsigned mask, uint64_t value, int argument, int width,
                         Site site) {
  expect_kernel("a warp collective");
  return Scheduler::get().collective(what, mask, value, argument, width, site);
}

void* dynamic_shared() {
  expect_kernel("shared memory");
  return Scheduler::get().dynamic();
}

void* static_shared(const void* key, size_t bytes, size_t alignment) {
  expect_kernel("shared memory");
  return Scheduler::get().variable(key, bytes, alignment);
}

void before_atomic() {
  if (running) Scheduler::get().preempt(true);
}

uint64_t atomics() { return Scheduler::get().atomics(); }

void fence() {
  if (running) Scheduler::get().fence();
}

void yield() {
  if (running) Scheduler::get().yield();
}

}  // namespace simt

// With -fsanitize-coverage=trace-pc a kernel can be interrupted anywhere.
extern "C" void __sanitizer_cov_trace_pc() {
  if (simt::running) simt::Scheduler::get().preempt(false);
}
