// Edges come back from the caller, and other threads may write to them. So each index is read once,
// and checked before it is used.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace tsloss {

struct Ends {
  int64_t i;
  int64_t j;
};

[[noreturn, gnu::noinline]] inline void refuse_edge(Ends ends, int64_t points) {
  const int64_t wrong = ends.i >= 0 && ends.i < points ? ends.j : ends.i;
  throw std::out_of_range("edges: point " + std::to_string(wrong) + " is not one of the " +
                          std::to_string(points) + " points; were the edges changed?");
}

inline Ends read_edge(const int64_t* edge, int64_t points) {
  // The loads are atomic because the compiler may not repeat those.
  const Ends ends{__atomic_load_n(edge, __ATOMIC_RELAXED),
                  __atomic_load_n(edge + 1, __ATOMIC_RELAXED)};
  if (ends.i < 0 || ends.i >= points || ends.j < 0 || ends.j >= points) refuse_edge(ends, points);
  return ends;
}

}  // namespace tsloss
