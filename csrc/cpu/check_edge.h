// Edges come back from the caller, and other threads may write to them: each is read once, and its
// indices are checked before they are used.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace tsloss {

struct Ends {
  int64_t i;
  int64_t j;
};

inline Ends read_edge(const int64_t* edge, int64_t points) {
  // Atomic loads, which the compiler may not repeat.
  const Ends ends{__atomic_load_n(edge, __ATOMIC_RELAXED),
                  __atomic_load_n(edge + 1, __ATOMIC_RELAXED)};
  for (const int64_t end : {ends.i, ends.j}) {
    if (end >= 0 && end < points) continue;
    throw std::out_of_range("edges: point " + std::to_string(end) + " is not one of the " +
                            std::to_string(points) + " points; were the edges changed?");
  }
  return ends;
}

}  // namespace tsloss
