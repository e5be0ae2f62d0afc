// Progress and cancellation of long calls: the thread that made the call polls between tasks.
#pragma once

#include <algorithm>
#include <chrono>

#include "cpu/tuning.h"

namespace tsloss {

// Thrown out of a call that was asked to stop. The outputs are then undefined.
struct Interrupted {};

class Monitor {
 public:
  // Called with the fraction of the work that is done. Returns false to stop the call.
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

  // While a Part exists, this thread's ticks report progress within a part of the enclosing range.
  class Part {
   public:
    Part(double begin, double end) : monitor_(current()) {
      if (!monitor_) return;
      begin_ = monitor_->begin_;
      end_ = monitor_->end_;
      set_range(begin, end);
    }
    ~Part() {
      if (!monitor_) return;
      monitor_->begin_ = begin_;
      monitor_->end_ = end_;
    }
    Part(const Part&) = delete;
    Part& operator=(const Part&) = delete;

    // Moves the ticks that follow to another part of the same enclosing range.
    void set_range(double begin, double end) {
      if (!monitor_) return;
      monitor_->begin_ = begin_ + (end_ - begin_) * begin;
      monitor_->end_ = begin_ + (end_ - begin_) * end;
    }

   private:
    Monitor* monitor_;
    double begin_ = 0;
    double end_ = 1;
  };

  // Must be called often; the callback itself runs at most about ten times a second.
  static void tick(double fraction_of_part) {
    if (Monitor* m = current()) m->poll(fraction_of_part);
  }

 private:
  using Clock = std::chrono::steady_clock;

  void poll(double fraction) {
    // Once a callback has cancelled, it is never called again: a Python callback that raised must
    // not run while its exception is pending.
    if (stopped_) throw Interrupted();
    const Clock::time_point now = Clock::now();
    if (now - last_ < std::chrono::milliseconds(overrides().poll_milliseconds)) return;
    last_ = now;
    // A path that was abandoned for another has reported too much, and progress must not go back.
    reached_ = std::max(reached_, begin_ + (end_ - begin_) * fraction);
    stopped_ = !poll_(context_, reached_);
    if (stopped_) throw Interrupted();
  }

  Poll poll_;
  void* context_;
  Clock::time_point last_;
  double begin_ = 0;
  double end_ = 1;
  double reached_ = 0;
  bool stopped_ = false;
  Monitor* before_;
};

}  // namespace tsloss
