// Where threads meet: the barriers of a block, and the collectives of a warp.
#include <algorithm>
#include <cstring>

#include "simt/scheduler.h"

namespace simt {
namespace {

bool operator==(Site a, Site b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

}  // namespace

int Scheduler::barrier(int predicate, Vote vote, Site site) {
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

void Scheduler::open_barrier(Block& block) {
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

uint64_t Scheduler::collective(Collective what, unsigned mask, uint64_t value, int argument,
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

void Scheduler::complete(Rendezvous& r) {
  for (int l = 0; l < kWarp; ++l) {
    if (r.arrived >> l & 1) r.lane[l]->result = result_of(r, l);
  }
  for (int l = 0; l < kWarp; ++l) {
    if (r.arrived >> l & 1) ready(r.lane[l]);
  }
  r.open = false;
}

uint64_t Scheduler::value_of(const Rendezvous& r, int lane, int source) {
  if (source < 0 || source >= kWarp || !(r.arrived >> source & 1)) {
    fail("lane " + std::to_string(lane) + " reads lane " + std::to_string(source) +
         ", which takes no part, at " + name(r.site));
  }
  return r.value[source];
}

uint64_t Scheduler::result_of(const Rendezvous& r, int lane) {
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

}  // namespace simt
