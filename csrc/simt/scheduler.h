// The threads of a launch: which of them runs, and what they wait for. executor.h is what others
// see of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "simt/block.h"
#include "simt/executor.h"
#include "simt/fiber.h"

namespace simt {

class Scheduler {
 public:
  static Scheduler& get();  // of this host thread

  void launch(dim3 grid, dim3 block, size_t dynamic, const std::function<void()>& body);
  int barrier(int predicate, Vote vote, Site site);
  uint64_t collective(Collective what, unsigned mask, uint64_t value, int argument, int width,
                      Site site);
  void* variable(const void* key, size_t bytes, size_t alignment);
  void* dynamic() { return self().owner->shared.dynamic(); }
  void yield() {
    ready(&self());
    suspend();
  }
  void preempt(bool atomic);
  uint64_t atomics() const { return atomics_; }
  void fence();

  std::vector<Site> sites;

 private:
  static Lane& self() { return *static_cast<Lane*>(running); }
  static void entry() { get().live_and_die(); }

  uint64_t random() {  // SplitMix64 (Steele, Lea and Flood, 2014)
    uint64_t z = (random_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  [[noreturn]] void fail(const std::string& what);

  // ---- who runs next ----

  void ready(Lane* lane) { queue_[(head_ + count_++) % queue_.size()] = lane; }

  Lane* next() {  // null: none is ready
    if (count_ == 0) return nullptr;
    if (options.order == Order::kLifo) return queue_[(head_ + --count_) % queue_.size()];
    if (options.order == Order::kRandom) {
      std::swap(queue_[head_], queue_[(head_ + random() % count_) % queue_.size()]);
    }
    Lane* lane = queue_[head_];
    head_ = (head_ + 1) % queue_.size();
    --count_;
    return lane;
  }

  void resume(Lane* lane) {  // null: the host
    Lane* from = static_cast<Lane*>(running);
    if (from && !from->done && ++switches_ > limit_) {
      limit_ = ~uint64_t{0};
      fail("livelock: more than " + std::to_string(options.switches) + " switches a block");
    }
    if (lane == from) return;
    running = lane;
    (from ? from->fiber : host_).switch_to(lane ? lane->fiber : host_, from && from->done);
  }

  void suspend() { resume(next()); }

  // ---- the life of blocks ----

  void live_and_die();
  void start_block();
  void retire(Block& block);
  std::string deadlock() const;

  // ---- meetings (meetings.cpp) ----

  void open_barrier(Block& block);
  void complete(Rendezvous& r);
  uint64_t result_of(const Rendezvous& r, int lane);
  uint64_t value_of(const Rendezvous& r, int lane, int source);

  Fiber host_;
  std::unique_ptr<StackPool> stacks_;
  std::vector<Lane*> queue_;
  size_t head_ = 0, count_ = 0;
  std::vector<std::unique_ptr<Block>> blocks_, ended_;
  const std::function<void()>* body_ = nullptr;
  dim3 grid_, size_;
  size_t dynamic_ = 0;
  uint64_t next_block_ = 0, block_count_ = 0;
  uint64_t random_ = 0, switches_ = 0, limit_ = 0;
  uint64_t atomics_ = 0;
  unsigned until_preemption_ = 0;
  std::string error_;
  char end_order_ = 0, fence_order_ = 0;
};

}  // namespace simt
