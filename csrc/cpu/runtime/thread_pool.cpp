#include "cpu/runtime/thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "cpu/runtime/monitor.h"
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace tsloss {
namespace {

// The floating-point mode of a thread: how it rounds, and whether it treats subnormal numbers as 0
// (torch.set_flush_denormal). This is its control register without the flags of past exceptions.
#if defined(__SSE2__)
using FloatMode = unsigned;
FloatMode float_mode() { return _mm_getcsr() & ~0x3fu; }
void set_float_mode(FloatMode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
using FloatMode = uint64_t;
FloatMode float_mode() {
  FloatMode mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
void set_float_mode(FloatMode mode) { asm volatile("msr fpcr, %0" ::"r"(mode)); }
#else
using FloatMode = unsigned;
FloatMode float_mode() { return 0; }
void set_float_mode(FloatMode) {}
#endif

// How long the caller waits for the other threads before it reports progress again.
constexpr std::chrono::milliseconds kPatience{50};

class ThreadPool;
ThreadPool* current_pool();

class ThreadPool {
 public:
  void run(int64_t tasks, int threads, TaskFn run, void* context) {
    std::unique_lock<std::mutex> entry(entry_, std::defer_lock);
    // A busy pool means that other threads already compute: the caller works alone.
    if (threads <= 1 || tasks <= 1 || !entry.try_lock()) {
      for (int64_t task = 0; task < tasks; ++task) {
        {
          Monitor::Part part(double(task) / double(tasks), double(task + 1) / double(tasks));
          run(context, task, 0);
        }
        if (task + 1 < tasks) Monitor::tick(double(task + 1) / double(tasks));
      }
      return;
    }
    const int helpers = static_cast<int>(std::min<int64_t>(threads, tasks)) - 1;
    {
      std::lock_guard<std::mutex> lock(state_);
      grow(helpers);
      run_ = run;
      context_ = context;
      mode_ = float_mode();
      end_ = tasks;
      next_.store(0, std::memory_order_relaxed);
      done_.store(0, std::memory_order_relaxed);
      error_ = nullptr;
      invited_ = std::min<int>(helpers, static_cast<int>(workers_.size()));
      slots_ = 1;
    }
    wake_.notify_all();
    work(0);
    must_not_be_forked();
    std::unique_lock<std::mutex> lock(state_);
    invited_ = 0;  // all tasks are taken, so workers that have not woken yet are not needed
    while (!idle_.wait_for(lock, kPatience, [&] { return active_ == 0; })) {
      lock.unlock();
      watch();
      lock.lock();
    }
    lock.unlock();
    watch();
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  // Starts workers until there are `wanted`. Having fewer is not an error, since the caller alone
  // can do all tasks.
  void grow(int wanted) {
    try {
      while (static_cast<int>(workers_.size()) < wanted) workers_.emplace_back([this] { serve(); });
    } catch (const std::system_error&) {
    }
  }

  void serve() {
    std::unique_lock<std::mutex> lock(state_);
    for (;;) {
      wake_.wait(lock, [&] { return invited_ > 0; });
      --invited_;
      ++active_;
      const int slot = slots_++;
      // Otherwise the bits of the results would depend on which thread runs which task.
      set_float_mode(mode_);
      lock.unlock();
      work(slot);
      lock.lock();
      if (--active_ == 0) idle_.notify_one();
    }
  }

  // Reports progress while the caller waits for tasks of other threads.
  void watch() {
    try {
      Monitor::tick(double(done_.load(std::memory_order_relaxed)) / double(end_));
    } catch (...) {
      stop(std::current_exception());
    }
    must_not_be_forked();
  }

  // A progress callback may fork. The child lacks the threads that hold the rest of the work, and
  // one of them may have locked a mutex, so the child must leave the call before it waits for
  // either.
  void must_not_be_forked() const {
    if (current_pool() != this)
      throw std::runtime_error(
          "the process was forked within this call, by its progress callback: the call cannot go "
          "on in the child. Fork before it, or leave the child with os._exit");
  }

  void stop(std::exception_ptr error) {
    must_not_be_forked();
    next_.store(end_, std::memory_order_relaxed);
    std::lock_guard<std::mutex> lock(state_);
    if (!error_) error_ = std::move(error);
  }

  void work(int slot) {
    try {
      for (int64_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < end_;) {
        {
          Monitor::Part part(double(task) / double(end_), double(task + 1) / double(end_));
          run_(context_, task, slot);
        }
        must_not_be_forked();
        done_.fetch_add(1, std::memory_order_relaxed);
        if (slot == 0) Monitor::tick(double(task + 1) / double(end_));
      }
    } catch (...) {
      stop(std::current_exception());
    }
  }

  std::mutex entry_;  // held by the caller of the job that runs
  std::mutex state_;  // guards the members below except next_ and done_
  std::condition_variable wake_;
  std::condition_variable idle_;
  std::vector<std::thread> workers_;
  TaskFn run_ = nullptr;
  void* context_ = nullptr;
  FloatMode mode_ = float_mode();
  int64_t end_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<int64_t> done_{0};
  int invited_ = 0;
  int active_ = 0;
  int slots_ = 1;
  std::exception_ptr error_;
};

// The pool is never destroyed, because its threads outlive static destruction. A forked child has
// none of the threads and perhaps a locked mutex, so it starts with a pool of its own.
ThreadPool* pool = new ThreadPool;
[[maybe_unused]] const int registered =
    pthread_atfork(nullptr, nullptr, [] { pool = new ThreadPool; });

ThreadPool* current_pool() { return pool; }

}  // namespace

void run_tasks(int64_t tasks, int threads, TaskFn run, void* context) {
  pool->run(tasks, threads, run, context);
}

}  // namespace tsloss
