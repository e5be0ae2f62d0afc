#include "simt/executor.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "simt/fiber.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

namespace simt {

thread_local Thread* running = nullptr;
thread_local Options options;

namespace {

constexpr int kWarp = 32;
constexpr size_t kStaticBytes = size_t{48} << 10;    // what a kernel may declare
constexpr size_t kDynamicBytes = size_t{227} << 10;  // what a launch may ask for on sm_90
constexpr size_t kGap = 32;                          // between variables, for AddressSanitizer
constexpr unsigned kSpin = 997;                      // atomics between two forced switches
#ifdef SIMT_TSAN
// A stack or a block used again would look like a race of its old and new owner, or hide one.
constexpr bool kReuse = false;
#else
constexpr bool kReuse = true;
#endif

struct Block;

struct Lane : Thread {
  Fiber fiber;
  Block* owner = nullptr;
  int linear = 0;
  unsigned warp = 0, lane = 0;
  bool done = false;
  uint64_t result = 0;  // of the collective it waits for
  Site at = {nullptr, 0};
  const char* waits_for = "nothing";
};

// A collective of a warp that lanes have begun to arrive at.
struct Rendezvous {
  bool open = false;
  unsigned mask = 0, arrived = 0;
  Collective what = Collective::kSync;
  int width = kWarp;
  Site site = {nullptr, 0};
  uint64_t value[kWarp] = {};
  int argument[kWarp] = {};
  Lane* lane[kWarp] = {};
  // For ThreadSanitizer, two by turns: one who leaves late must not see those who arrive early at
  // the next.
  unsigned generation = 0;
  char order[2] = {0, 0};
};

struct Warp {
  unsigned live = 0;
  std::vector<Rendezvous> meetings;
};

// Shared memory of a block, of exact size, and junk at first.
class Arena {
 public:
  Arena(size_t dynamic, unsigned char fill)
      : size_((kStaticBytes + kGap + dynamic + 15) / 16 * 16),
        memory_(static_cast<char*>(std::aligned_alloc(16, size_)), std::free) {
    if (!memory_) throw std::bad_alloc();
    std::memset(memory_.get(), fill, size_);
    ASAN_POISON_MEMORY_REGION(memory_.get(), size_);
    ASAN_UNPOISON_MEMORY_REGION(this->dynamic(), dynamic);
    variables_.reserve(64);  // nothing may be allocated by a fiber
  }
  ~Arena() { ASAN_UNPOISON_MEMORY_REGION(memory_.get(), size_); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  char* dynamic() { return memory_.get() + kStaticBytes + kGap; }

  // Null: there is no room.
  char* variable(const void* key, size_t bytes, size_t alignment) {
    for (const auto& [known, at] : variables_) {
      if (known == key) return at;
    }
    const size_t step = std::max<size_t>(alignment, 16);
    const size_t begin = (used_ + step - 1) / step * step;
    if (begin + bytes > kStaticBytes || variables_.size() == variables_.capacity()) return nullptr;
    char* at = memory_.get() + begin;
    used_ = begin + bytes + kGap;
    ASAN_UNPOISON_MEMORY_REGION(at, bytes);
    variables_.emplace_back(key, at);
    return at;
  }

 private:
  size_t size_;
  std::unique_ptr<char, void (*)(void*)> memory_;
  size_t used_ = 0;
  std::vector<std::pair<const void*, char*>> variables_;
};

struct Block {
  Block(size_t threads, size_t dynamic, unsigned char fill)
      : lanes(threads), warps((threads + kWarp - 1) / kWarp), shared(dynamic, fill) {
    waiting.reserve(threads);
    for (Warp& w : warps) w.meetings.reserve(kWarp);
  }

  std::vector<Lane> lanes;
  std::vector<Warp> warps;
  Arena shared;
  int live = 0;
  // The barrier that threads wait at.
  std::vector<Lane*> waiting;
  Vote vote = Vote::kNone;
  Site site = {nullptr, 0};
  int ayes = 0;
  unsigned generation = 0;
  char order[2] = {0, 0};
};

// Thrown in a fiber, caught where it began.
struct Failure {
  std::string message;
};

std::string name(Site site) {
  return std::string(site.file ? site.file : "?") + ":" + std::to_string(site.line);
}

bool operator==(Site a, Site b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

class Executor {
 public:
  static Executor& get() {
    static thread_local Executor executor;
    return executor;
  }

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

  [[noreturn]] void fail(const std::string& what) {
    const Lane& lane = self();
    throw Failure{what + " (block " + std::to_string(lane.block.x) + ", thread " +
                  std::to_string(lane.linear) + ")"};
  }

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

  // ---- meetings ----

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
  unsigned atomics_ = 0;
  unsigned until_preemption_ = 0;
  std::string error_;
  char end_order_ = 0, fence_order_ = 0;
};

void Executor::launch(dim3 grid, dim3 block, size_t dynamic, const std::function<void()>& body) {
  if (running) throw Error("a kernel launches a kernel");
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads < 1 || threads > 1024) {
    throw Error("a block of " + std::to_string(threads) + " threads: expected 1 to 1024");
  }
  if (dynamic > kDynamicBytes) {
    throw Error(std::to_string(dynamic) + " bytes of dynamic shared memory: no GPU has more than " +
                std::to_string(kDynamicBytes));
  }
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

void Executor::start_block() {
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

void Executor::retire(Block& block) {
  for (Lane& lane : block.lanes) {
    lane.fiber.finish();
    if (kReuse) stacks_->give(lane.fiber.stack);
  }
}

void Executor::live_and_die() {
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

std::string Executor::deadlock() const {
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

// ---- block ----

int Executor::barrier(int predicate, Vote vote, Site site) {
  Lane& lane = self();
  size_t known = 0;
  while (known < sites.size() && !(sites[known] == site)) ++known;
  if (known == sites.size() && vote == Vote::kNone) sites.push_back(site);
  if (vote == Vote::kNone && !options.drop.empty() && options.drop == name(site)) return 0;
  Block& block = *lane.owner;
  if (!block.waiting.empty() && (!(block.site == site) || block.vote != vote)) {
    fail("divergent barrier: at " + name(site) + " while others wait at " + name(block.site));
  }
  block.site = site;
  block.vote = vote;
  block.ayes += predicate != 0;
  lane.at = site;
  lane.waits_for = "__syncthreads";
  char* order = &block.order[block.generation % 2];
  happens_before(order);
  block.waiting.push_back(&lane);
  if (static_cast<int>(block.waiting.size()) == block.live) open_barrier(block);
  suspend();
  happens_after(order);
  return static_cast<int>(lane.result);
}

void Executor::open_barrier(Block& block) {
  const int all = static_cast<int>(block.waiting.size());
  const int result = block.vote == Vote::kCount ? block.ayes
                     : block.vote == Vote::kAnd ? block.ayes == all
                     : block.vote == Vote::kOr  ? block.ayes > 0
                                                : 0;
  for (Lane* lane : block.waiting) {
    lane->result = static_cast<uint64_t>(result);
    ready(lane);
  }
  block.waiting.clear();
  block.ayes = 0;
  ++block.generation;
}

void* Executor::variable(const void* key, size_t bytes, size_t alignment) {
  void* at = self().owner->shared.variable(key, bytes, alignment);
  if (!at) fail("more than " + std::to_string(kStaticBytes) + " bytes of static shared memory");
  return at;
}

// ---- warp ----

uint64_t Executor::collective(Collective what, unsigned mask, uint64_t value, int argument,
                              int width, Site site) {
  Lane& lane = self();
  Warp& warp = lane.owner->warps[lane.warp];
  const unsigned bit = 1u << lane.lane;
  if (!(mask & bit)) fail("a lane that is not in the mask it gives, at " + name(site));
  Rendezvous* r = nullptr;
  for (Rendezvous& other : warp.meetings) {
    if (other.open && other.mask == mask && !(other.arrived & bit)) r = &other;
  }
  if (r && (r->what != what || !(r->site == site))) {
    fail("divergent warp: at " + name(site) + " while other lanes wait at " + name(r->site));
  }
  if (!r) {
    for (Rendezvous& other : warp.meetings) {
      if (!other.open) r = &other;
    }
    if (!r) r = &warp.meetings.emplace_back();
    r->open = true;
    ++r->generation;
    r->mask = mask;
    r->arrived = 0;
    r->what = what;
    r->width = width;
    r->site = site;
  }
  r->arrived |= bit;
  r->value[lane.lane] = value;
  r->argument[lane.lane] = argument;
  r->lane[lane.lane] = &lane;
  lane.at = site;
  lane.waits_for = "lanes of its warp";
  char* order = &r->order[r->generation % 2];
  happens_before(order);
  if (r->arrived == (mask & warp.live)) complete(*r);
  suspend();
  happens_after(order);
  return lane.result;
}

void Executor::complete(Rendezvous& r) {
  for (int l = 0; l < kWarp; ++l) {
    if (r.arrived >> l & 1) r.lane[l]->result = result_of(r, l);
  }
  for (int l = 0; l < kWarp; ++l) {
    if (r.arrived >> l & 1) ready(r.lane[l]);
  }
  r.open = false;
}

uint64_t Executor::value_of(const Rendezvous& r, int lane, int source) {
  if (source < 0 || source >= kWarp || !(r.arrived >> source & 1)) {
    fail("lane " + std::to_string(lane) + " reads lane " + std::to_string(source) +
         ", which takes no part, at " + name(r.site));
  }
  return r.value[source];
}

uint64_t Executor::result_of(const Rendezvous& r, int lane) {
  const int argument = r.argument[lane];
  const int begin = lane & ~(r.width - 1), end = begin + r.width;
  switch (r.what) {
    case Collective::kSync:
      return 0;
    case Collective::kShuffle:
      return value_of(r, lane, begin + (argument & (r.width - 1)));
    case Collective::kShuffleUp:
      return value_of(r, lane, lane - argument < begin ? lane : lane - argument);
    case Collective::kShuffleDown:
      return value_of(r, lane, lane + argument >= end ? lane : lane + argument);
    case Collective::kShuffleXor:
      return value_of(r, lane, (lane ^ argument) >= end ? lane : lane ^ argument);
    default:
      break;
  }
  uint64_t result = 0;
  bool first = true;
  for (int l = 0; l < kWarp; ++l) {
    if (!(r.arrived >> l & 1)) continue;
    const uint64_t value = r.value[l];
    const auto s = [](uint64_t bits) { return static_cast<int32_t>(static_cast<uint32_t>(bits)); };
    switch (r.what) {
      case Collective::kBallot:
        result |= (value & 1) << l;
        break;
      case Collective::kMatch:
        result |= static_cast<uint64_t>(value == r.value[lane]) << l;
        break;
      case Collective::kAdd:
        result = static_cast<uint32_t>(result + value);
        break;
      case Collective::kMinUnsigned:
        result = first ? value : std::min(result, value);
        break;
      case Collective::kMaxUnsigned:
        result = first ? value : std::max(result, value);
        break;
      case Collective::kMinSigned:
        result = first || s(value) < s(result) ? value : result;
        break;
      case Collective::kMaxSigned:
        result = first || s(value) > s(result) ? value : result;
        break;
      case Collective::kAnd:
        result = first ? value : result & value;
        break;
      case Collective::kOr:
        result |= value;
        break;
      case Collective::kXor:
        result ^= value;
        break;
      default:
        break;
    }
    first = false;
  }
  return result;
}

// ---- interleaving ----

void Executor::preempt(bool atomic) {
  // A loop that waits for another thread would else never let it run.
  if (atomic && ++atomics_ % kSpin == 0) return yield();
  if (options.preempt == 0 || until_preemption_-- > 0) return;
  until_preemption_ = static_cast<unsigned>(random() % (2 * uint64_t{options.preempt}));
  yield();
}

void Executor::fence() {
  // Stronger than CUDA's: it orders all fences. So there are no false alarms.
  happens_after(&fence_order_);
  happens_before(&fence_order_);
  preempt(false);
}

void expect_kernel(const char* what) {
  if (!running) throw Error(std::string(what) + " outside a kernel");
}

}  // namespace

void run(dim3 grid, dim3 block, size_t dynamic, const std::function<void()>& body) {
  Executor::get().launch(grid, block, dynamic, body);
}

std::vector<std::string> barrier_sites() {
  std::vector<std::string> names;
  for (const Site& site : Executor::get().sites) names.push_back(name(site));
  return names;
}

void forget_barrier_sites() { Executor::get().sites.clear(); }

int block_barrier(int predicate, Vote vote, Site site) {
  expect_kernel("__syncthreads");
  return Executor::get().barrier(predicate, vote, site);
}

uint64_t warp_collective(Collective what, unsigned mask, uint64_t value, int argument, int width,
                         Site site) {
  expect_kernel("a warp collective");
  return Executor::get().collective(what, mask, value, argument, width, site);
}

void* dynamic_shared() {
  expect_kernel("shared memory");
  return Executor::get().dynamic();
}

void* static_shared(const void* key, size_t bytes, size_t alignment) {
  expect_kernel("shared memory");
  return Executor::get().variable(key, bytes, alignment);
}

void before_atomic() {
  if (running) Executor::get().preempt(true);
}

void fence() {
  if (running) Executor::get().fence();
}

void yield() {
  if (running) Executor::get().yield();
}

}  // namespace simt

// With -fsanitize-coverage=trace-pc a kernel can be interrupted anywhere.
extern "C" void __sanitizer_cov_trace_pc() {
  if (simt::running) simt::Executor::get().preempt(false);
}
