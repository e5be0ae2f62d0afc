#include "simt/scheduler.h"

#include <algorithm>
#include <cstdlib>
#include <exception>

namespace simt {
namespace {

constexpr unsigned kSpin = 997;  // atomics between two forced switches
#ifdef SIMT_TSAN
// A stack or a block used again would look like a race of its old and new owner, or hide one.
constexpr bool kReuse = false;
#else
constexpr bool kReuse = true;
#endif

// Thrown in a fiber, caught where it began.
struct Failure {
  std::string message;
};

}  // namespace

Scheduler& Scheduler::get() {
  static thread_local Scheduler scheduler;
  return scheduler;
}

void Scheduler::fail(const std::string& what) {
  const Lane& lane = self();
  throw Failure{what + " (block " + std::to_string(lane.block.x) + ", thread " +
                std::to_string(lane.linear) + ")"};
}

void Scheduler::launch(dim3 grid, dim3 block, size_t dynamic, const std::function<void()>& body) {
  if (running) throw Error("a kernel launches a kernel");
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  body_ = &body;
  grid_ = grid;
  size_ = block;
  dynamic_ = dynamic;
  next_block_ = 0;
  block_count_ = uint64_t{grid.x} * grid.y * grid.z;
  random_ = options.seed;
  switches_ = 0;
  limit_ = options.switches * block_count_;
  error_.clear();
  sites.reserve(256);
  if (!stacks_ || stacks_->bytes() != options.stack_bytes) {
    stacks_ = std::make_unique<StackPool>(options.stack_bytes);
  }
  const unsigned resident = std::max(1u, options.resident);
  queue_.assign(resident * threads + 1, nullptr);
  head_ = count_ = 0;
  host_.adopt();
  for (unsigned k = 0; k < resident; ++k) start_block();
  while (!blocks_.empty() && error_.empty()) {
    if (Lane* lane = next()) {
      resume(lane);
    } else if (std::none_of(blocks_.begin(), blocks_.end(),
                            [](const auto& b) { return b->live == 0; })) {
      error_ = deadlock();
      break;
    }
    for (size_t k = 0; k < blocks_.size();) {
      if (blocks_[k]->live > 0) {
        ++k;
        continue;
      }
      retire(*blocks_[k]);
      if (!kReuse) ended_.push_back(std::move(blocks_[k]));
      blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(k));
      start_block();
    }
  }
  for (auto& b : blocks_) retire(*b);
  happens_after(&end_order_);
  blocks_.clear();
  ended_.clear();
  stacks_->give_all();
  Fiber::forget_finished();
  if (!error_.empty()) throw Error(error_);
}

void Scheduler::start_block() {
  if (next_block_ == block_count_) return;
  const uint64_t number = next_block_++;
  const unsigned threads = size_.x * size_.y * size_.z;
  auto block = std::make_unique<Block>(threads, dynamic_, options.fill);
  block->live = static_cast<int>(threads);
  for (unsigned i = 0; i < threads; ++i) {
    Lane& lane = block->lanes[i];
    lane.index = {i % size_.x, i / size_.x % size_.y, i / size_.x / size_.y};
    lane.block = {static_cast<unsigned>(number % grid_.x),
                  static_cast<unsigned>(number / grid_.x % grid_.y),
                  static_cast<unsigned>(number / grid_.x / grid_.y)};
    lane.block_size = size_;
    lane.grid_size = grid_;
    lane.owner = block.get();
    lane.linear = static_cast<int>(i);
    lane.warp = i / kWarp;
    lane.lane = i % kWarp;
    block->warps[lane.warp].live |= 1u << lane.lane;
    lane.fiber.start(stacks_->take(), entry);
  }
  for (unsigned i = 0; i < threads; ++i) {
    ready(&block->lanes[options.order == Order::kReverse ? threads - 1 - i : i]);
  }
  blocks_.push_back(std::move(block));
}

void Scheduler::retire(Block& block) {
  for (Lane& lane : block.lanes) {
    lane.fiber.finish();
    if (kReuse) stacks_->give(lane.fiber.stack);
  }
}

void Scheduler::live_and_die() {
  Fiber::arrived(host_);
  Lane& lane = self();
  Block& block = *lane.owner;
  try {
    (*body_)();
    happens_before(&end_order_);
    Warp& warp = block.warps[lane.warp];
    warp.live &= ~(1u << lane.lane);
    --block.live;
    // Threads that have ended are waited for no longer.
    for (Rendezvous& r : warp.meetings) {
      if (r.open && r.arrived == (r.mask & warp.live)) complete(r);
    }
    if (block.live > 0 && static_cast<int>(block.waiting.size()) == block.live) open_barrier(block);
  } catch (const Failure& failure) {
    error_ = failure.message;
  } catch (const std::exception& thrown) {
    error_ = std::string("an exception left the kernel: ") + thrown.what();
  }
  lane.done = true;
  resume(block.live > 0 && error_.empty() ? next() : nullptr);
  std::abort();
}

std::string Scheduler::deadlock() const {
  std::string text = "deadlock:";
  int named = 0;
  for (const auto& block : blocks_) {
    for (const Lane& lane : block->lanes) {
      if (lane.done || ++named > 4) continue;
      text += (named > 1 ? ", thread " : " thread ") + std::to_string(lane.linear) + " of block " +
              std::to_string(lane.block.x) + " waits for " + lane.waits_for + " at " +
              name(lane.at);
    }
  }
  return text;
}

void* Scheduler::variable(const void* key, size_t bytes, size_t alignment) {
  void* at = self().owner->shared.variable(key, bytes, alignment);
  if (!at) fail("more than " + std::to_string(kStaticBytes) + " bytes of static shared memory");
  return at;
}

void Scheduler::preempt(bool atomic) {
  // A loop that waits for another thread would else never let it run.
  if (atomic && ++atomics_ % kSpin == 0) return yield();
  if (options.preempt == 0 || until_preemption_-- > 0) return;
  until_preemption_ = static_cast<unsigned>(random() % (2 * uint64_t{options.preempt}));
  yield();
}

void Scheduler::fence() {
  // Stronger than CUDA's: it orders all fences. So there are no false alarms.
  happens_after(&fence_order_);
  happens_before(&fence_order_);
  preempt(false);
}

}  // namespace simt
