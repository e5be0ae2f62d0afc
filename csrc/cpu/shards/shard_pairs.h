// The edges between two blocks of a sharded cloud that could be in its tree.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/shards/shard_forest.h"
#include "cpu/tuning.h"

namespace tsloss {

// Collects the edges that one thread finds between blocks a and b, which may be the same.
template <class T>
class ShardPairs {
 public:
  ShardPairs(const ShardForest<T>& shared, const Block<T>& a, const Block<T>& b)
      : shared_(shared),
        a_(a),
        b_(b),
        points_(a.size() + b.size()),
        limit_(static_cast<size_t>(points_ * std::max<int64_t>(4, shared.cloud.dim / 8) + 4096)),
        sets_(0) {}

  const std::vector<Found>& found() const { return found_; }
  bool lost_digits() const { return lost_digits_; }

  // Filters all pairs of block t of b with points of a; if a and b are the same, with those before.
  void filter_block(int64_t t, bool same) {
    const int64_t begin = t * kTileColumns, end = std::min(b_.size(), begin + kTileColumns);
    const int64_t panels = (a_.size() + kPanel - 1) / kPanel;
    // The largest rank from the first column to each, and from each to the last one.
    int32_t from_first[kTileColumns] = {}, to_last[kTileColumns] = {};
    for (int64_t q = begin + 1; q < end; ++q) {
      from_first[q - begin] = std::max(from_first[q - begin - 1], b_.rank[q]);
    }
    for (int64_t q = end - 1; q > begin; --q) {
      to_last[q - begin - 1] = std::max(to_last[q - begin], b_.rank[q]);
    }
    const auto place_in_a = [&](int32_t position, bool after) {
      const auto& v = a_.position;
      return (after ? std::upper_bound(v.begin(), v.end(), position)
                    : std::lower_bound(v.begin(), v.end(), position)) -
             v.begin();
    };
    // Rows before `left` come before all columns, those from `right` on after them.
    const int64_t left = place_in_a(b_.position[begin], false);
    const int64_t right = place_in_a(b_.position[end - 1], true);

    int32_t rank[kPanel];
    int32_t running =
        left > 0 ? shared_.largest_rank(a_.position[left - 1], b_.position[begin]) : 0;
    const int64_t whole_left = left == a_.size() ? panels : left / kPanel;
    for (int64_t p = left - 1; p >= 0; --p) {
      rank[p % kPanel] = running;
      running = std::max(running, a_.rank[p]);
      if (p % kPanel == 0 && p / kPanel < whole_left) {
        filter_panel(p / kPanel, t, {rank, from_first, nullptr});
      }
    }
    int64_t whole_right = panels;
    if (!same && right < a_.size()) {
      whole_right = (right + kPanel - 1) / kPanel;
      running = shared_.largest_rank(b_.position[end - 1], a_.position[right]);
      for (int64_t p = right; p < a_.size(); ++p) {
        if (p > right) running = std::max(running, a_.rank[p]);
        rank[p % kPanel] = running;
        const bool last = p % kPanel == kPanel - 1 || p + 1 == a_.size();
        if (last && p / kPanel >= whole_right) {
          filter_panel(p / kPanel, t, {rank, to_last, nullptr});
        }
      }
    } else if (same) {
      whole_right = (end + kPanel - 1) / kPanel;
    }
    for (int64_t ip = whole_left; ip < whole_right; ++ip) {
      int32_t each[kPanel * kTileColumns];
      std::fill_n(each, kPanel * kTileColumns, -1);
      for (int64_t p = ip * kPanel; p < std::min(a_.size(), (ip + 1) * kPanel); ++p) {
        rank_each(a_.position[p], begin, end, same, each + p % kPanel * kTileColumns);
      }
      filter_panel(ip, t, {nullptr, nullptr, each});
    }
  }

  // Computes the keys of the pending candidates. Must also be called at the end.
  void flush() {
    for (const Pending& w : pending_) {
      add(w.p, w.q, w.rank, shared_.exact_key(a_.row(w.p), b_.row(w.q)));
    }
    pending_.clear();
  }

 private:
  struct Pending {
    int32_t p, q, rank;
  };

  // Ranks that bound the pairs of some rows with a block: the larger of a rank of the row and one
  // of the column, or a rank for each pair, where -1 excludes the pair.
  struct Limits {
    const int32_t* row = nullptr;
    const int32_t* column = nullptr;
    const int32_t* each = nullptr;

    int32_t operator()(int64_t r, int64_t j) const {
      return each ? each[r * kTileColumns + j] : std::max(row[r], column[j]);
    }
  };

  // The largest rank between a position and each of the columns, which may lie on both sides.
  void rank_each(int32_t position, int64_t begin, int64_t end, bool same, int32_t* each) const {
    const int64_t after =
        std::upper_bound(b_.position.begin() + begin, b_.position.begin() + end, position) -
        b_.position.begin();
    for (int64_t q = after; q < end; ++q) {
      each[q - begin] = q == after ? shared_.largest_rank(position, b_.position[q])
                                   : std::max(each[q - begin - 1], b_.rank[q]);
    }
    if (same) return;
    for (int64_t q = after - 1; q >= begin; --q) {
      each[q - begin] = q == after - 1 ? shared_.largest_rank(b_.position[q], position)
                                       : std::max(each[q - begin + 1], b_.rank[q + 1]);
    }
  }

  void filter_panel(int64_t ip, int64_t t, Limits limits) {
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t i = ip * kPanel + half * kTileRows;
      const int rows = static_cast<int>(std::min(kTileRows, a_.size() - i));
      if (rows <= 0) break;
      Limits own = limits;
      if (own.each) {
        own.each += half * kTileRows * kTileColumns;
      } else {
        own.row += half * kTileRows;
      }
      if (shared_.cloud.robust) {
        visit_tile(i, t, rows, own);
      } else if (shared_.coded) {
        filter_tile(i, t, rows, own);
      } else {
        measure_tile(i, t, rows, own);
      }
    }
  }

  // Computes the exact key of every pair, without a filter.
  void visit_tile(int64_t i, int64_t t, int rows, const Limits& limits) {
    const int64_t begin = t * kTileColumns, end = std::min(b_.size(), begin + kTileColumns);
    for (int r = 0; r < rows; ++r) {
      for (int64_t q = begin; q < end; ++q) {
        const int32_t rank = limits(r, q - begin);
        if (rank < 0) continue;
        add(i + r, q, rank, shared_.exact_key(a_.row(i + r), b_.row(q)));
      }
    }
  }

  // Sets masks[r] to the columns of row r where test(row bounds, column bounds) does not rule out
  // an edge. The bounds are the `heights` of the ranks.
  template <class F, class Test>
  int ask(const std::vector<F>& heights, int rows, const Limits& limits, const Test& test) const {
    alignas(64) F row[kTileRows];
    alignas(64) F column[kTileColumns];
    const F none = -std::numeric_limits<F>::infinity();
    const auto height = [&](int32_t rank) { return rank < 0 ? none : heights[rank]; };
    if (!limits.each) {
      for (int r = 0; r < rows; ++r) row[r] = height(limits.row[r]);
      for (int j = 0; j < kTileColumns; ++j) column[j] = height(limits.column[j]);
      return test(row, column, rows, 0);
    }
    int count = 0;
    for (int r = 0; r < rows; ++r) {
      for (int j = 0; j < kTileColumns; ++j) column[j] = height(limits(r, j));
      count += test(&none, column, 1, r);
    }
    return count;
  }

  // Tests a tile by its keys, computed from coordinates.
  void measure_tile(int64_t i, int64_t t, int rows, const Limits& limits) {
    alignas(64) T keys[kTileRows * kTileColumns];
    uint64_t masks[kTileRows];
    a_.packed.panel_keys(i, b_.packed, t, shared_.cloud.term, keys);
    add_hits(i, t, rows, limits, keys, masks);
  }

  void add_hits(int64_t i, int64_t t, int rows, const Limits& limits, const T* keys,
                uint64_t* masks) {
    const auto test = [&](const T* row, const T* column, int count, int from) {
      return shared_.table.hits(keys + from * kTileColumns, row, column, count, masks + from);
    };
    if (ask(shared_.height, rows, limits, test) == 0) return;
    visit_hits(t, rows, masks, [&](int64_t r, int64_t q, int64_t j) {
      const double key = shared_.cloud.lattice ? double(keys[r * kTileColumns + j])
                                               : shared_.exact_key(a_.row(i + r), b_.row(q));
      add(i + r, q, limits(r, j), key);
    });
  }

  template <class Hit>
  void visit_hits(int64_t t, int rows, const uint64_t* masks, const Hit& hit) const {
    const int64_t begin = t * kTileColumns;
    const int64_t columns = std::min(b_.size() - begin, kTileColumns);
    const uint64_t valid = (uint64_t{1} << columns) - 1;
    for (int r = 0; r < rows; ++r) {
      for (uint64_t mask = masks[r] & valid; mask; mask &= mask - 1) {
        const int j = __builtin_ctzll(mask);
        hit(r, begin + j, j);
      }
    }
  }

  // Tests a tile by its codes first, then by the keys of the pairs that pass, or of all pairs.
  void filter_tile(int64_t i, int64_t t, int rows, const Limits& limits) {
    uint64_t masks[kTileRows];
    // After a long streak of tiles that the filter did not thin out, it is tried only now and then.
    const bool asked = streak_ < kLongStreak || streak_ % kLongStreak == 0;
    int count = kDenseHits + 1;
    if (asked) {
      alignas(64) int32_t dots[kTileRows * kTileColumns];
      const TileRowTerms terms = a_.packed.row_terms(i, rows, b_.packed.largest_norm(t));
      a_.packed.dot(i, b_.packed, t, dots);
      count =
          ask(shared_.scaled_height, rows, limits,
              [&](const float* row, const float* column, int number, int from) {
                TileBounds bounds = b_.packed.tile_bounds(terms, t);
                bounds.row_scale += from;
                bounds.row_low += from;
                bounds.row_bound = row;
                bounds.column_bound = column;
                return filter().survivors(dots + from * kTileColumns, bounds, number, masks + from);
              });
    }
    flush();
    if (count == 0) {
      streak_ = 0;
      return;
    }
    if (count > kDenseHits) {
      ++streak_;
      alignas(64) T keys[kTileRows * kTileColumns];
      const T* x[kTileRows];
      const T* y[kTileColumns];
      for (int64_t r = 0; r < kTileRows; ++r) x[r] = a_.row(std::min(i + r, a_.size() - 1));
      for (int64_t j = 0; j < kTileColumns; ++j) {
        y[j] = b_.row(std::min(t * kTileColumns + j, b_.size() - 1));
      }
      shared_.table.rectangle(x, y, shared_.stride, shared_.cloud.term, keys);
      return add_hits(i, t, rows, limits, keys, masks);
    }
    streak_ = 0;
    visit_hits(t, rows, masks,
               [&](int64_t r, int64_t q, int64_t j) { enqueue_candidate(i + r, q, limits(r, j)); });
  }

  // Postpones the key of a pair until its rows, prefetched here, have arrived from memory.
  void enqueue_candidate(int64_t p, int64_t q, int32_t rank) {
    pending_.push_back({static_cast<int32_t>(p), static_cast<int32_t>(q), rank});
    const char* x = reinterpret_cast<const char*>(a_.row(p));
    const char* y = reinterpret_cast<const char*>(b_.row(q));
    const int64_t bytes = shared_.stride * static_cast<int64_t>(sizeof(T));
    for (int64_t k = 0; k < bytes; k += 64) {
      __builtin_prefetch(x + k);
      __builtin_prefetch(y + k);
    }
  }

  void add(int64_t p, int64_t q, int32_t rank, double key) {
    const Found f = shared_.edge(a_, b_, p, q, key);
    if (key == 0 && !std::equal(a_.row(p), a_.row(p) + shared_.stride, b_.row(q))) {
      lost_digits_ = true;
    }
    if (!(f < shared_.edges[rank])) return;
    found_.push_back(f);
    if (found_.size() >= limit_) keep_found_forest(found_, sets_, points_);
  }

  const ShardForest<T>& shared_;
  const Block<T>& a_;
  const Block<T>& b_;
  const int64_t points_;
  const size_t limit_;
  UnionFind sets_;
  std::vector<Found> found_;
  std::vector<Pending> pending_;  // candidates whose rows are on their way from memory
  bool lost_digits_ = false;
  int64_t streak_ = 0;  // tiles in a row that had to be evaluated whole
};

}  // namespace tsloss
