// A block of CUDA threads while it runs: its threads, its warps, and the meetings they wait at.
#pragma once

#include <cstdint>
#include <vector>

#include "simt/executor.h"
#include "simt/fiber.h"
#include "simt/shared_memory.h"

namespace simt {

constexpr int kWarp = 32;

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

}  // namespace simt
