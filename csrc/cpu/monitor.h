// Long calls can be watched and stopped: the thread that made the call polls between tasks.
#pragma once

#include <chrono>

namespace tsloss {

// Thrown out of a call that was asked to stop. The outputs are then undefined, all else is well.
struct Interrupted {};

class Monitor {
 public:
  // Returns false to stop the call. `fraction` of the work is done.
  using Poll = bool (*)(void* context, double fraction);

  Monitor(Poll poll, void* context)
      : poll_(poll), context_(context), last_(Clock::now()), before_(current()) {
    current() = this;
  }
  ~Monitor() { current() = before_; }
  Monitor(const Monitor&) = delete;
  Monitor& operator=(const Monitor&) = delete;

  // The monitor of the call that this thread makes, or null.
  static Monitor*& current() {
    static thread_local Monitor* monitor = nullptr;
    return monitor;
  }

  // The next tasks are this part of the whole.
  static void stage(double begin, double end) {
    if (Monitor* m = current()) {
      m->begin_ = begin;
      m->end_ = end;
    }
  }

  // To be called often: at most every tenth of a second something happens.
  static void tick(double fraction_of_stage) {
    if (Monitor* m = current()) m->poll(fraction_of_stage);
  }

 private:
  using Clock = std::chrono::steady_clock;

  void poll(double fraction) {
    const Clock::time_point now = Clock::now();
    if (now - last_ < std::chrono::milliseconds(100)) return;
    last_ = now;
    if (!poll_(context_, begin_ + (end_ - begin_) * fraction)) throw Interrupted();
  }

  Poll poll_;
  void* context_;
  Clock::time_point last_;
  double begin_ = 0;
  double end_ = 1;
  Monitor* before_;
};

}  // namespace tsloss
