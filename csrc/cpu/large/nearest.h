// Approximate nearest neighbours of points among others. The first forest of a large cloud is made
// of them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <limits>
#include <utility>
#include <vector>

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
        // numbers above those of all rows, as in Pairs.
        shift_(&rows == &columns ? 0 : rows.size()) {}

  // Searches the tiles of panel `ip` of the rows with the blocks t for which chosen(t) holds, for a
  // few near columns of each row.
  template <class Chosen>
  void search(int64_t ip, Chosen chosen) {
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
        if (q < columns_.size()) add(best[l].first, ip * kPanel + r, q);
      }
    }
  }

  // The links that were found, and those to a few near rows of each column among the same tiles.
  const std::vector<Link<float>>& finish() {
    for (int64_t k = 0; k < size_; ++k) {
      const int64_t block = k / (kColumnCandidates * kTileColumns);
      const int64_t q = block * kTileColumns + k % kTileColumns;
      if (index_.data()[k] >= 0 && q < columns_.size()) add(value_.data()[k], index_.data()[k], q);
    }
    return links_;
  }

 private:
  static constexpr int64_t kRowCandidates = 4;
  static constexpr int64_t kColumnCandidates = 4;

  void add(float near, int64_t p, int64_t q) {
    links_.push_back(
        {std::max(near, 0.0f), static_cast<int32_t>(p), static_cast<int32_t>(shift_ + q)});
  }

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
  std::vector<Link<float>> links_;
};

// Links each row with a few near columns and each column with a few near rows, numbered as in
// Pairs. Their keys are approximate. The tile of panel `ip` and block t is searched if chooser(ip)
// returns a function that is true for t.
template <class T, class Chooser>
std::vector<Link<float>> find_near(const FilterContext<T>& context, const PackedRows<T>& rows,
                                   const PackedRows<T>& columns, const Chooser& chooser) {
  std::deque<Nearest<T>> searches;
  for (int slot = 0; slot < context.threads; ++slot) searches.emplace_back(context, rows, columns);
  parallel_for((rows.size() + kPanel - 1) / kPanel, context.threads,
               [&](int64_t ip, int slot) { searches[slot].search(ip, chooser(ip)); });
  std::vector<Link<float>> links;
  for (Nearest<T>& search : searches) {
    const std::vector<Link<float>>& found = search.finish();
    links.insert(links.end(), found.begin(), found.end());
  }
  return links;
}

}  // namespace tsloss
