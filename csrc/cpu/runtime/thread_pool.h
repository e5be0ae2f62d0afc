// A persistent pool of threads, sized by the caller of each job.
//
// OpenMP is not used, because a forked child (a DataLoader worker) that enters a parallel region
// can hang, and spinning barriers turn microseconds into milliseconds on a busy machine.
#pragma once

#include <cstdint>
#include <type_traits>

namespace tsloss {

// Calls run(context, task, slot) for each task in [0, tasks), on at most `threads` threads, the
// caller included. `slot` in [0, threads) is unique among the threads at work: an index for scratch
// memory. All threads compute in the floating-point mode of the caller. The first exception stops
// further tasks and is thrown to the caller. A nested call, or one made while another thread uses
// the pool, runs on its caller alone.
using TaskFn = void (*)(void* context, int64_t task, int slot);
void run_tasks(int64_t tasks, int threads, TaskFn run, void* context);

template <class F>
void parallel_for(int64_t tasks, int threads, F&& body) {
  auto call = [](void* context, int64_t task, int slot) {
    (*static_cast<std::remove_reference_t<F>*>(context))(task, slot);
  };
  run_tasks(tasks, threads, call, &body);
}

}  // namespace tsloss
