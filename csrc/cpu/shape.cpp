// Checks of the lengths and offsets that say where the clouds of a batch are.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "tsloss.h"

namespace tsloss {

void check_lengths(const BatchShape& shape) {
  if (!shape.lengths) return;
  for (int64_t c = 0; c < shape.batch; ++c) {
    const int64_t n = shape.lengths[c];
    if (n >= 0 && n <= shape.points) continue;
    throw std::invalid_argument("lengths: expected numbers between 0 and " +
                                std::to_string(shape.points) +
                                " (the points of a padded cloud), got " + std::to_string(n) +
                                " for cloud " + std::to_string(c));
  }
}

std::vector<int64_t> bar_offsets_of(int64_t batch, const int64_t* offsets, int64_t rows) {
  if (batch < 0) throw std::invalid_argument("offsets: expected (B+1,) numbers, got none");
  if (offsets[0] != 0 || offsets[batch] != rows) {
    throw std::invalid_argument("offsets: expected to begin with 0 and to end with " +
                                std::to_string(rows) + " (the points of all clouds), got " +
                                std::to_string(offsets[0]) + " and " +
                                std::to_string(offsets[batch]));
  }
  std::vector<int64_t> bars(static_cast<size_t>(batch) + 1);
  for (int64_t c = 0; c < batch; ++c) {
    if (offsets[c + 1] < offsets[c]) {
      throw std::invalid_argument(
          "offsets: expected ascending numbers, got " + std::to_string(offsets[c]) + " and then " +
          std::to_string(offsets[c + 1]) + " for cloud " + std::to_string(c));
    }
    const size_t at = static_cast<size_t>(c);
    // The difference cannot overflow: if the later offsets ascend too, both are between 0 and
    // `rows`.
    bars[at + 1] = bars[at] + std::max<int64_t>(offsets[c + 1] - offsets[c] - 1, 0);
  }
  return bars;
}

}  // namespace tsloss
