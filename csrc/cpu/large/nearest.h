// Approximate nearest neighbours of points among others. The first forest of a large cloud is made
// of them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <limits>
#include <utility>

#include "cpu/large/filter_context.h"
#include "cpu/runtime/thread_pool.h"

namespace tsloss {

// The search of one thread for near neighbours in some of the tiles of rows against columns.
template <class T>
class Nearest {
 public:
  Nearest(const FilterContext<T>& context, const PackedRows<T>& rows, const PackedRows<T>& columns)
      : context_(context),
        rows_(rows),
        columns_(columns),
        // `minima` skips columns up to the row's own number, so the columns of other points get
        // numbers above those of all rows.
        shift_(&rows == &columns ? 0 : rows.padded()) {}

  // Searches the tiles of panel `ip` of the rows with the blocks t for which chosen(t) holds, and
  // calls found(p, q, near) for a few near columns of each row.
  template <class Chosen, class Found>
  void row(int64_t ip, Chosen chosen, const Found& found) {
    constexpr float kInf = std::numeric_limits<float>::infinity();
    if (size_ == 0) {
      size_ = columns_.padded() * kColumnCandidates;
      std::fill_n(value_.reserve(size_), size_, kInf);
      std::fill_n(index_.reserve(size_), size_, -1);
    }
    alignas(64) float row_value[kPanel * kPanel];
    alignas(64) int32_t row_index[kPanel * kPanel];
    alignas(64) float near[kTileRows * kTileColumns];
    std::fill_n(row_value, kPanel * kPanel, kInf);
    std::fill_n(row_index, kPanel * kPanel, -1);
    for (int64_t t = 0; t < columns_.blocks(); ++t) {
      if (!chosen(t)) continue;
      const int64_t at = (t * kColumnCandidates + ip % kColumnCandidates) * kTileColumns;
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t i = ip * kPanel + half * kTileRows;
        const int rows = static_cast<int>(std::min(kTileRows, rows_.size() - i));
        if (rows <= 0) break;
        approximate(i, t, rows, near);
        const Minima minima{row_value + half * kTileRows * kPanel,
                            row_index + half * kTileRows * kPanel, value_.data() + at,
                            index_.data() + at};
        filter().minima(near, rows, static_cast<int32_t>(i),
                        static_cast<int32_t>(shift_ + t * kTileColumns), minima);
      }
    }
    for (int64_t r = 0; r < std::min(kPanel, rows_.size() - ip * kPanel); ++r) {
      std::array<std::pair<float, int32_t>, kPanel> best;
      for (int64_t l = 0; l < kPanel; ++l) {
        best[l] = {row_value[r * kPanel + l], row_index[r * kPanel + l]};
      }
      std::partial_sort(best.begin(), best.begin() + kRowCandidates, best.end());
      for (int64_t l = 0; l < kRowCandidates && best[l].second >= 0; ++l) {
        const int64_t q = best[l].second - shift_;
        if (q < columns_.size()) found(ip * kPanel + r, q, std::max(best[l].first, 0.0f));
      }
    }
  }

  // Calls found(p, q, near) for a few near rows of each column among the tiles searched so far.
  template <class Found>
  void columns(const Found& found) const {
    for (int64_t k = 0; k < size_; ++k) {
      const int64_t block = k / (kColumnCandidates * kTileColumns);
      const int64_t q = block * kTileColumns + k % kTileColumns;
      if (index_.data()[k] < 0 || q >= columns_.size()) continue;
      found(int64_t{index_.data()[k]}, q, std::max(value_.data()[k], 0.0f));
    }
  }

 private:
  static constexpr int64_t kRowCandidates = 4;
  static constexpr int64_t kColumnCandidates = 4;

  void approximate(int64_t i, int64_t t, int rows, float* near) const {
    if (context_.coded) return rows_.approximate(i, columns_, t, rows, near);
    alignas(64) T keys[kTileRows * kTileColumns];
    rows_.panel_keys(i, columns_, t, context_.term, keys);
    for (int64_t k = 0; k < kTileRows * kTileColumns; ++k) near[k] = static_cast<float>(keys[k]);
  }

  const FilterContext<T>& context_;
  const PackedRows<T>& rows_;
  const PackedRows<T>& columns_;
  const int64_t shift_;
  int64_t size_ = 0;
  Buffer<float> value_;
  Buffer<int32_t> index_;
};

// Calls found(slot, p, q, near) for a few near columns q of each row p and a few near rows of each
// column, with their approximate keys. The slot is that of parallel_for. The tile of panel `ip` and
// block t is searched if chooser(ip) returns a function that is true for t.
template <class T, class Chooser, class Found>
void find_near(const FilterContext<T>& context, const PackedRows<T>& rows,
               const PackedRows<T>& columns, const Chooser& chooser, const Found& found) {
  std::deque<Nearest<T>> searches;
  for (int slot = 0; slot < context.threads; ++slot) searches.emplace_back(context, rows, columns);
  parallel_for((rows.size() + kPanel - 1) / kPanel, context.threads, [&](int64_t ip, int slot) {
    searches[slot].row(ip, chooser(ip),
                       [&](int64_t p, int64_t q, float near) { found(slot, p, q, near); });
  });
  for (const Nearest<T>& search : searches) {
    search.columns([&](int64_t p, int64_t q, float near) { found(0, p, q, near); });
  }
}

}  // namespace tsloss
