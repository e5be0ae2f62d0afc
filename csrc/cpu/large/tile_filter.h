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
// pair is met once. A pair that passes the tests is dropped unless it comes before the edge of the
// forest that bounds it. Where its fast key does not tell, it gets its exact key at once, so masses
// of ties cost no memory.
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
      : context_(context),
        rows_(rows),
        columns_(columns),
        pairs_(context, rows, columns),
        limit_(
            static_cast<size_t>(pairs_.points() * std::max<int64_t>(4, context.dim / 8) + 4096)) {}

  // The links that were found. Call flush() before.
  const std::vector<Link<double>>& found() const { return found_; }

  // Whether the squared distance of two different points was 0.
  bool lost_digits() const { return lost_digits_; }

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

  // Finds the pairs of a panel that could be in the tree, some of them later.
  void filter_panel(const Tile& panel) {
    for (int first = 0; first < panel.rows; first += kTileRows) {
      filter_tile(part_of(panel, first));
    }
  }

  // Measures the candidates, whose rows have arrived by now. Must also be called at the end.
  void flush() {
    const int64_t count = static_cast<int64_t>(pending_.size());
    if (count == 0) return;
    if (!context_.robust) {
      a_.clear();
      b_.clear();
      for (const Candidate& c : pending_) {
        a_.push_back(rows_.row(c.p));
        b_.push_back(columns_.row(c.q));
      }
      keys_.resize(pending_.size());
      context_.table.pairs(a_.data(), b_.data(), count, context_.stride, context_.term,
                           keys_.data());
    }
    for (int64_t k = 0; k < count; ++k) {
      const Candidate& c = pending_[k];
      keep(c.p, c.q, c.rank, context_.robust ? pairs_.exact_key(c.p, c.q) : double(keys_[k]));
    }
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

  void filter_tile(const Tile& tile) {
    alignas(64) T keys[kTileRows * kTileColumns];
    uint64_t masks[kTileRows];
    if (context_.robust) {
      std::fill_n(masks, kTileRows, ~uint64_t{0});
      visit_pairs(tile, masks, [&](int64_t r, int64_t j) { enqueue_candidate(tile, r, j); });
      return flush();
    }
    // After a long streak of tiles that the codes did not thin out, few tiles are tested by them.
    const bool tested = streak_ < kLongStreak || streak_ % kLongStreak == 0;
    const int count = tested ? test(tile, keys, masks) : kDenseHits + 1;
    flush();
    const bool whole = context_.coded && count > kDenseHits;
    streak_ = whole ? streak_ + 1 : 0;
    if (count == 0) return;
    if (whole) {
      measure_whole(tile, keys);
      test_keys(tile, keys, masks);
    }
    visit_pairs(tile, masks, [&](int64_t r, int64_t j) {
      if (context_.coded && !whole) return enqueue_candidate(tile, r, j);
      keep(tile.i + r, tile.t * kTileColumns + j, tile.rank(r, j), keys[r * kTileColumns + j]);
    });
  }

  // Takes the pair of row p and column q, unless it comes after the edge that bounds it, or is it.
  // The key is a fast one, or exact if the band is 1.
  void keep(int64_t p, int64_t q, int32_t rank, double key) {
    if (!(key <= double(context_.height[rank]))) return;  // NaN is not within any bound
    if (key == 0) {
      // Points without rows are those of one cloud, which are all different.
      const T* x = rows_.rows.data ? rows_.row(p) : nullptr;
      if (x && !std::equal(x, x + context_.stride, columns_.row(q))) lost_digits_ = true;
    }
    const Edge<double>& bound = context_.forest[rank];
    if (key * double(context_.band) >= bound.length) {
      Edge<double> edge = pairs_.edge(key, p, q);
      if (edge.i == bound.i && edge.j == bound.j) return;
      if (context_.band > 1) edge.length = pairs_.exact_key(p, q);
      if (!(edge < bound)) return;
    }
    found_.push_back({key, static_cast<int32_t>(p), static_cast<int32_t>(pairs_.shift() + q)});
    if (found_.size() >= limit_) pairs_.reduce(found_, limit_ / 2, 1);
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
  std::vector<const T*> a_, b_;     // of flush
  std::vector<T> keys_;
  int64_t streak_ = 0;  // consecutive tiles that had to be evaluated whole
  Pairs<T> pairs_;
  const size_t limit_;  // the number of links at which they are reduced to a forest: less than half
                        // the memory of the points, or 4 links a point
  std::vector<Link<double>> found_;
  bool lost_digits_ = false;
};

// The edges of pairs that come before the edges of the forest which bound them.
struct Found {
  std::vector<Edge<double>> edges;  // their minimum spanning forest, ascending
  bool lost_digits = false;         // the squared distance of two different points was 0
};

// Filters the pairs of rows with columns by context.threads threads. A panel that meets block t is
// skipped unless chooser(t) returns a function that is true for it.
template <class T, class Chooser>
Found filter_pairs(const FilterContext<T>& context, const OrderedPoints<T>& rows,
                   const OrderedPoints<T>& columns, const Chooser& chooser) {
  std::vector<std::unique_ptr<TileFilter<T>>> filters(static_cast<size_t>(context.threads));
  const int64_t blocks = (columns.size() + kTileColumns - 1) / kTileColumns;
  parallel_for(blocks, context.threads, [&](int64_t task, int slot) {
    if (!filters[slot]) filters[slot].reset(new TileFilter<T>(context, rows, columns));
    const int64_t t = blocks - 1 - task;  // the longest first
    auto chosen = chooser(t);
    filters[slot]->for_each_panel(t, [&](const typename TileFilter<T>::Tile& panel) {
      if (chosen(panel)) filters[slot]->filter_panel(panel);
    });
  });
  Found result;
  std::vector<Link<double>> links;
  for (auto& filter : filters) {
    if (!filter) continue;
    filter->flush();
    links.insert(links.end(), filter->found().begin(), filter->found().end());
    result.lost_digits = result.lost_digits || filter->lost_digits();
    filter.reset();
  }
  Pairs<T> pairs(context, rows, columns);
  pairs.reduce(links, 0, context.threads);
  result.edges = pairs.edges(links);
  return result;
}

}  // namespace tsloss
