// Edges come back from the caller, who may have written to them: an index is checked before it is
// used.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace tsloss {

inline void check_edge(const int64_t* edge, int64_t points) {
  for (int end = 0; end < 2; ++end) {
    if (edge[end] >= 0 && edge[end] < points) continue;
    throw std::out_of_range("edges: point " + std::to_string(edge[end]) + " is not one of the " +
                            std::to_string(points) + " points; were the edges changed?");
  }
}

}  // namespace tsloss
