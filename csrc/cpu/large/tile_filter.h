// The filter of pairs: it finds, tile by tile, the pairs of points that could be in the minimum
// spanning tree, at a fraction of the cost of all distances. The proof that it loses no edge is in
// ../README.md, under "Large clouds". One cloud filters all of its points against themselves, and
// the shards of a cloud filter blocks of points against each other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "cpu/large/filter_context.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/tuning.h"

namespace tsloss {

// A pair of places that only the codes have let through, and the rank that bounds it.
struct Candidate {
  int32_t p, q, rank;
};

// Filters the pairs of `rows` with `columns`, for one thread. If both are the same points, each
// pair is met once. The pairs that pass go to a sink, which has two members:
//   add(p, q, rank, key)  takes the pair of row p and column q with its fast key, which is within
//                         the bound, the height of `rank`;
//   measure(candidates)   takes pairs whose key is not known yet.
template <class T>
class TileFilter {
 public:
  // Bounds of a block's columns for rows that all lie on one side of it.
  struct ColumnBounds {
    int32_t rank[kTileColumns] = {};
    alignas(64) T height[kTileColumns];
    alignas(64) float scaled_height[kTileColumns];
  };

  // A panel of rows, or half of one, against block t of the columns. The rank that bounds a pair is
  // the larger of one of its row and one of its column; or, where rows and columns overlap in the
  // order, each pair has a rank of its own, and -1 excludes the pair.
  struct Tile {
    int64_t i;  // the first row
    int64_t t;
    int rows;
    float largest_norm;  // of the columns' codes
    const ColumnBounds* columns;
    const int32_t* row_rank;  // [rows]
    const int32_t* each;      // [rows][48], or null

    int32_t rank(int64_t r, int64_t j) const {
      return each ? each[r * kTileColumns + j] : std::max(row_rank[r], columns->rank[j]);
    }
  };

  TileFilter(const FilterContext<T>& context, const OrderedPoints<T>& rows,
             const OrderedPoints<T>& columns)
      : context_(context), rows_(rows), columns_(columns) {}

  // Calls visit(panel) for every panel of rows that meets block t of the columns, the last first.
  // If rows and columns are the same points, the rows end with those of the block.
  template <class Visit>
  void for_each_panel(int64_t t, const Visit& visit) {
    const bool same = &rows_ == &columns_;
    const std::vector<int32_t>&at = rows_.position, &column_at = columns_.position;
    const int64_t begin = t * kTileColumns, end = std::min(columns_.size(), begin + kTileColumns);
    const int64_t count = same ? end : rows_.size();
    // Rows before `left` precede all columns in the order; rows from `right` on follow them.
    const int64_t left =
        std::lower_bound(at.begin(), at.begin() + count, column_at[begin]) - at.begin();
    const int64_t right =
        std::upper_bound(at.begin(), at.begin() + count, column_at[end - 1]) - at.begin();

    // The largest rank between two positions is the larger of two: from the row to the nearest
    // column, and from there to the column of the pair.
    row_rank_.resize(static_cast<size_t>(count));
    ColumnBounds before, after;  // for rows on this side of the columns
    if (left > 0) {
      for (int64_t j = 1; j < end - begin; ++j) {
        before.rank[j] = std::max(before.rank[j - 1], columns_.rank[begin + j]);
      }
      set_heights(before);
      int32_t running = context_.largest_rank(at[left - 1], column_at[begin]);
      for (int64_t p = left - 1; p >= 0; --p) {
        row_rank_[p] = running;
        running = std::max(running, rows_.rank[p]);
      }
    }
    if (right < count) {
      for (int64_t j = end - begin - 1; j > 0; --j) {
        after.rank[j - 1] = std::max(after.rank[j], columns_.rank[begin + j]);
      }
      set_heights(after);
      int32_t running = context_.largest_rank(column_at[end - 1], at[right]);
      for (int64_t p = right; p < count; ++p) {
        if (p > right) running = std::max(running, rows_.rank[p]);
        row_rank_[p] = running;
      }
    }

    const float largest_norm = context_.coded ? columns_.packed.largest_norm(t) : 0;
    for (int64_t i = (count - 1) / kPanel * kPanel; i >= 0; i -= kPanel) {
      const int rows = static_cast<int>(std::min(kPanel, count - i));
      Tile panel{i, t, rows, largest_norm, &before, row_rank_.data() + i, nullptr};
      int32_t each[kPanel * kTileColumns];
      if (i >= right) {
        panel.columns = &after;
      } else if (i + rows > left) {
        for (int64_t r = 0; r < rows; ++r) {
          rank_each(at[i + r], begin, end, same, each + r * kTileColumns);
        }
        panel.each = each;
      }
      visit(panel);
    }
  }

  // Hands the pairs of a panel that could be in the tree to the sink, some of them later.
  template <class Sink>
  void filter_panel(const Tile& panel, Sink& sink) {
    for (int first = 0; first < panel.rows; first += kTileRows) {
      filter_tile(part_of(panel, first), sink);
    }
  }

  // Hands the candidates to the sink that still wait. Must also be called at the end.
  template <class Sink>
  void flush(Sink& sink) {
    if (pending_.empty()) return;
    sink.measure(pending_);
    pending_.clear();
  }

  // Number of pairs of a panel that pass the first test of the filter.
  int count(const Tile& panel) const {
    int sum = 0;
    for (int first = 0; first < panel.rows; first += kTileRows) {
      alignas(64) T keys[kTileRows * kTileColumns];
      uint64_t masks[kTileRows];
      sum += test(part_of(panel, first), keys, masks);
    }
    return sum;
  }

 private:
  // The half of a panel that begins with its row `first`.
  static Tile part_of(const Tile& panel, int first) {
    Tile tile = panel;
    tile.i += first;
    tile.rows = std::min(static_cast<int>(kTileRows), panel.rows - first);
    tile.row_rank += first;
    if (tile.each) tile.each += first * kTileColumns;
    return tile;
  }

  void set_heights(ColumnBounds& bounds) const {
    for (int64_t j = 0; j < kTileColumns; ++j) {
      bounds.height[j] = context_.height[bounds.rank[j]];
      if (context_.coded) bounds.scaled_height[j] = context_.scaled_height[bounds.rank[j]];
    }
  }

  // The largest rank between a position and each of the columns, which may lie on both sides.
  void rank_each(int32_t position, int64_t begin, int64_t end, bool same, int32_t* each) const {
    const std::vector<int32_t>& at = columns_.position;
    std::fill_n(each, kTileColumns, -1);
    const int64_t after =
        std::upper_bound(at.begin() + begin, at.begin() + end, position) - at.begin();
    for (int64_t q = after; q < end; ++q) {
      each[q - begin] = q == after ? context_.largest_rank(position, at[q])
                                   : std::max(each[q - begin - 1], columns_.rank[q]);
    }
    if (same) return;
    for (int64_t q = after - 1; q >= begin; --q) {
      each[q - begin] = q == after - 1 ? context_.largest_rank(at[q], position)
                                       : std::max(each[q - begin + 1], columns_.rank[q + 1]);
    }
  }

  // Runs test(first row, number of rows, row bounds, column bounds) on the rows of a tile, at once
  // or one by one, with the `heights` of the ranks as bounds. Returns the number of pairs that
  // pass.
  template <class F, class Test>
  int test_rows(const Tile& tile, const std::vector<F>& heights, const F* column_bound,
                const Test& test) const {
    if (!tile.each) {
      F row_bound[kTileRows];
      for (int r = 0; r < tile.rows; ++r) row_bound[r] = heights[tile.row_rank[r]];
      return test(0, tile.rows, row_bound, column_bound);
    }
    const F none = -std::numeric_limits<F>::infinity();
    int count = 0;
    for (int r = 0; r < tile.rows; ++r) {
      alignas(64) F own[kTileColumns];
      for (int64_t j = 0; j < kTileColumns; ++j) {
        const int32_t rank = tile.rank(r, j);
        own[j] = rank < 0 ? none : heights[rank];
      }
      count += test(r, 1, &none, own);
    }
    return count;
  }

  // Sets masks[r] to the columns of row r that the codes do not rule out. Returns their number.
  int test_codes(const Tile& tile, uint64_t* masks) const {
    const typename PackedRows<T>::Codes codes(rows_.packed, tile.i, tile.rows, columns_.packed,
                                              tile.t, tile.largest_norm);
    return test_rows(tile, context_.scaled_height, tile.columns->scaled_height,
                     [&](int first, int rows, const float* row_bound, const float* column_bound) {
                       return codes.survivors(first, rows, row_bound, column_bound, masks);
                     });
  }

  // Sets masks[r] to the columns of row r whose keys are within their bounds.
  int test_keys(const Tile& tile, const T* keys, uint64_t* masks) const {
    return test_rows(tile, context_.height, tile.columns->height,
                     [&](int first, int rows, const T* row_bound, const T* column_bound) {
                       return context_.table.hits(keys + first * kTileColumns, row_bound,
                                                  column_bound, rows, masks + first);
                     });
  }

  // The first test: by codes, or, if the filter works on coordinates, by keys, which it computes.
  int test(const Tile& tile, T* keys, uint64_t* masks) const {
    if (context_.coded) return test_codes(tile, masks);
    rows_.packed.panel_keys(tile.i, columns_.packed, tile.t, context_.term, keys);
    return test_keys(tile, keys, masks);
  }

  template <class Sink>
  void filter_tile(const Tile& tile, Sink& sink) {
    alignas(64) T keys[kTileRows * kTileColumns];
    uint64_t masks[kTileRows];
    if (context_.robust) {
      std::fill_n(masks, kTileRows, ~uint64_t{0});
      visit_pairs(tile, masks, [&](int64_t r, int64_t j) { enqueue_candidate(tile, r, j); });
      return flush(sink);
    }
    // After a long streak of tiles that the codes did not thin out, few tiles are tested by them.
    const bool tested = streak_ < kLongStreak || streak_ % kLongStreak == 0;
    const int count = tested ? test(tile, keys, masks) : kDenseHits + 1;
    flush(sink);
    const bool whole = context_.coded && count > kDenseHits;
    streak_ = whole ? streak_ + 1 : 0;
    if (count == 0) return;
    if (whole) {
      measure_whole(tile, keys);
      test_keys(tile, keys, masks);
    }
    visit_pairs(tile, masks, [&](int64_t r, int64_t j) {
      if (context_.coded && !whole) return enqueue_candidate(tile, r, j);
      sink.add(tile.i + r, tile.t * kTileColumns + j, tile.rank(r, j), keys[r * kTileColumns + j]);
    });
  }

  // Keys of all pairs of a tile, [8][48], computed from the rows. Missing rows repeat the last one.
  void measure_whole(const Tile& tile, T* keys) const {
    const T* a[kTileRows];
    const T* b[kTileColumns];
    for (int64_t r = 0; r < kTileRows; ++r) {
      a[r] = rows_.row(std::min(tile.i + r, rows_.size() - 1));
    }
    for (int64_t j = 0; j < kTileColumns; ++j) {
      b[j] = columns_.row(std::min(tile.t * kTileColumns + j, columns_.size() - 1));
    }
    context_.table.rectangle(a, b, context_.stride, context_.term, keys);
  }

  // Calls visit(r, j) for the pairs in the masks, without those of padded columns.
  template <class Visit>
  void visit_pairs(const Tile& tile, const uint64_t* masks, const Visit& visit) const {
    const int64_t columns = std::min(columns_.size() - tile.t * kTileColumns, kTileColumns);
    const uint64_t valid = (uint64_t{1} << columns) - 1;
    for (int r = 0; r < tile.rows; ++r) {
      for (uint64_t mask = masks[r] & valid; mask; mask &= mask - 1) {
        visit(r, __builtin_ctzll(mask));
      }
    }
  }

  // Postpones the key of a pair until its rows, prefetched here, have arrived from memory. Pairs
  // that the ranks exclude have no bound, but codes may let them through: if another thread writes
  // to the points during the call, a norm can be infinite, and the lower bound of a pair -infinity.
  void enqueue_candidate(const Tile& tile, int64_t r, int64_t j) {
    const int64_t p = tile.i + r, q = tile.t * kTileColumns + j;
    const int32_t rank = tile.rank(r, j);
    if (rank < 0) return;
    pending_.push_back({static_cast<int32_t>(p), static_cast<int32_t>(q), rank});
    const char* x = reinterpret_cast<const char*>(rows_.row(p));
    const char* y = reinterpret_cast<const char*>(columns_.row(q));
    const int64_t bytes = context_.stride * static_cast<int64_t>(sizeof(T));
    for (int64_t k = 0; k < bytes; k += 64) {
      __builtin_prefetch(x + k);
      __builtin_prefetch(y + k);
    }
  }

  const FilterContext<T>& context_;
  const OrderedPoints<T>& rows_;
  const OrderedPoints<T>& columns_;
  std::vector<int32_t> row_rank_;   // of for_each_panel
  std::vector<Candidate> pending_;  // candidates whose rows are on their way from memory
  int64_t streak_ = 0;              // consecutive tiles that had to be evaluated whole
};

// Filters the pairs of rows with columns by context.threads threads. Each thread has a sink of its
// own, made by make_sink(), and at the end take(sink) is called for one after the other. A panel
// that meets block t is skipped unless chooser(t) returns a function that is true for it.
template <class T, class MakeSink, class Chooser, class Take>
void filter_pairs(const FilterContext<T>& context, const OrderedPoints<T>& rows,
                  const OrderedPoints<T>& columns, const MakeSink& make_sink,
                  const Chooser& chooser, const Take& take) {
  struct Worker {
    TileFilter<T> filter;
    decltype(make_sink()) sink;
  };
  std::vector<std::unique_ptr<Worker>> workers(static_cast<size_t>(context.threads));
  const int64_t blocks = (columns.size() + kTileColumns - 1) / kTileColumns;
  parallel_for(blocks, context.threads, [&](int64_t task, int slot) {
    if (!workers[slot]) workers[slot].reset(new Worker{{context, rows, columns}, make_sink()});
    Worker& worker = *workers[slot];
    const int64_t t = blocks - 1 - task;  // the longest first
    auto chosen = chooser(t);
    worker.filter.for_each_panel(t, [&](const typename TileFilter<T>::Tile& panel) {
      if (chosen(panel)) worker.filter.filter_panel(panel, worker.sink);
    });
  });
  for (auto& worker : workers) {
    if (!worker) continue;
    worker->filter.flush(worker->sink);
    take(worker->sink);
    worker.reset();
  }
}

}  // namespace tsloss
