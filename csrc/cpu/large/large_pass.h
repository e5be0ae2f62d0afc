// A pass of a large cloud's filter over the tiles of pairs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/large/large_points.h"
#include "cpu/runtime/random.h"
#include "cpu/tree/collector.h"
#include "cpu/tuning.h"

namespace tsloss {

// The best spanning tree so far: pairs longer than its longest edge between them are not in the
// minimum one.
template <class T>
struct KnownForest {
  std::vector<Link<T>> links;       // sorted; they define the order of the points
  std::vector<Edge<double>> exact;  // exact keys of the links if ties need them; these sort both
  std::vector<T> height;            // upper bounds of the links' keys
  std::vector<T> gap;               // by position; see merge_order
  std::vector<int32_t> rank;
  std::vector<float> scaled_gap;

  // Orders the points by the forest.
  void set(LargePoints<T>& points, const std::vector<Link<T>>& forest, bool tied) {
    links = forest;
    exact.clear();
    if (tied && !points.lattice) {
      auto with_keys =
          with_exact_keys(forest, [&](int32_t i, int32_t j) { return points.exact_key(i, j); });
      std::sort(with_keys.begin(), with_keys.end());
      links.assign(with_keys.begin(), with_keys.end());
      exact.assign(with_keys.begin(), with_keys.end());
    }
    UnionFind sets(0);
    merge_order(links, sets, points.m, points.order, gap, rank);
    points.gather();
    gap.resize(static_cast<size_t>(points.packed.padded()), T{0});
    rank.resize(gap.size(), 0);
    rank[0] = 0;
    height.resize(forest.size());
    std::transform(links.begin(), links.end(), height.begin(),
                   [&](const Link<T>& l) { return l.key * points.band; });
    gap[0] = 0;
    for (T& g : gap) g *= points.band;
    if (points.coded) {
      scaled_gap.resize(gap.size());
      std::transform(gap.begin(), gap.end(), scaled_gap.begin(),
                     [&](T g) { return points.scaling.bound(g); });
    }
  }

  // Whether a link could be in the tree, if the longest edge of the forest between its ends has
  // this rank. Exact ties are decided here, since a cloud whose distances are all equal would keep
  // all its pairs otherwise.
  bool within(const LargePoints<T>& points, const Link<T>& l, int32_t rank) const {
    if (!(l.key <= height[rank])) return false;  // NaN is not within any bound
    if (points.lattice) return !(links[rank] < l);
    if (exact.empty() || l.key * points.band < links[rank].key) return true;
    return !(exact[rank] < Edge<double>{points.exact_key(l.i, l.j), l.i, l.j});
  }
};

// What one thread finds in its part of a pass.
template <class T>
class LargePass {
 public:
  // If `counting`, the pass only counts hits and collects no links.
  LargePass(const LargePoints<T>& points, const KnownForest<T>& known, bool counting)
      : points_(points),
        known_(known),
        counting_(counting),
        collector_(points.m, points.cloud.dim, points.band,
                   [&points](int32_t i, int32_t j) { return points.exact_key(i, j); }) {}

  // Filters one in `one_in` of the tiles between block t and all rows up to its own.
  void block(int64_t t, int64_t one_in, Random random) {
    if (points_.coded) {
      block(t, one_in, random, known_.scaled_gap);
    } else {
      block(t, one_in, random, known_.gap);
    }
  }

  // Computes the keys of the pending candidates. Must also be called at the end.
  void flush() {
    const int64_t count = static_cast<int64_t>(pending_.size());
    if (count == 0) return;
    keys_.resize(pending_.size());
    points_.table.pairs(points_.cloud.rows, points_.cloud.term, pending_.data(), count,
                        keys_.data());
    for (int64_t k = 0; k < count; ++k) {
      Link<T>& l = pending_link_[k];
      l.key = keys_[k];
      if (known_.within(points_, l, pending_rank_[k])) collector_.add(l);
    }
    pending_.clear();
    pending_link_.clear();
    pending_rank_.clear();
  }

  const std::vector<Link<T>>& links() const { return collector_.links(); }
  int64_t tested() const { return tested_; }
  int64_t hits() const { return hits_; }

 private:
  template <class F>
  void block(int64_t t, int64_t one_in, Random random, const std::vector<F>& gap) {
    const int64_t first = t * kTilePanels, columns = t * kTileColumns;
    const int64_t rows_end = std::min(first + kTilePanels, (points_.m + kPanel - 1) / kPanel);
    // The largest gap from the start of the block (inclusive) to each column, and its rank.
    alignas(64) F column_bound[kTileColumns];
    int32_t column_rank[kTileColumns];
    F running = 0;
    int32_t running_rank = 0;
    for (int64_t j = 0; j < kTileColumns; ++j) {
      column_bound[j] = running = std::max(running, gap[columns + j]);
      column_rank[j] = running_rank = std::max(running_rank, known_.rank[columns + j]);
    }
    const float largest = points_.coded ? points_.packed.largest_norm(t) : 0;
    F between = 0;  // the largest gap from the end of the row's panel to the start of the block
    int32_t between_rank = 0;
    for (int64_t ip = rows_end - 1; ip >= 0; --ip) {
      const bool diagonal = ip >= first;
      if (diagonal && counting_) continue;
      if (ip + 1 < first) {
        for (int64_t p = (ip + 1) * kPanel; p < (ip + 2) * kPanel; ++p) {
          between = std::max(between, gap[p]);
          between_rank = std::max(between_rank, known_.rank[p]);
        }
      }
      if (one_in > 1 && !diagonal && random() % uint64_t(one_in) != 0) continue;
      F inside = between;
      int32_t inside_rank = between_rank;
      F row_bound[kPanel];
      int32_t row_rank[kPanel];
      for (int64_t l = kPanel - 1; l >= 0; --l) {
        row_bound[l] = inside;
        row_rank[l] = inside_rank;
        inside = std::max(inside, gap[ip * kPanel + l]);
        inside_rank = std::max(inside_rank, known_.rank[ip * kPanel + l]);
      }
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t i = ip * kPanel + half * kTileRows;
        const int rows = static_cast<int>(std::min(kTileRows, points_.m - i));
        if (rows <= 0) break;
        tile(i, t, rows, diagonal, row_bound + half * kTileRows, row_rank + half * kTileRows,
             column_bound, column_rank, largest, gap);
      }
    }
  }

  template <class F>
  void tile(int64_t i, int64_t t, int rows, bool diagonal, const F* row_bound,
            const int32_t* row_rank, const F* column_bound, const int32_t* column_rank,
            float largest_column, const std::vector<F>& gap) {
    const int64_t columns = t * kTileColumns;
    alignas(64) int32_t dots[kTileRows * kTileColumns];
    alignas(64) T keys[kTileRows * kTileColumns];
    uint64_t masks[kTileRows];
    TileRowTerms terms;
    // After a long streak of tiles that the filter did not thin out, it is tried only now and then.
    const bool ask = !points_.coded || diagonal || counting_ || streak_ < kLongStreak ||
                     streak_ % kLongStreak == 0;
    if (points_.coded && ask) {
      terms = points_.packed.row_terms(i, rows, largest_column);
      points_.packed.dot(i, points_.packed, t, dots);
    }
    if (!points_.coded) points_.packed.panel_keys(i, points_.packed, t, points_.cloud.term, keys);

    const auto test = [&](const F* of_rows, const F* of_columns, int count, int from) {
      if (!points_.coded) {
        return points_.table.hits(keys + from * kTileColumns, reinterpret_cast<const T*>(of_rows),
                                  reinterpret_cast<const T*>(of_columns), count, masks + from);
      }
      TileBounds b = points_.packed.tile_bounds(terms, t);
      b.row_scale += from;
      b.row_low += from;
      b.row_bound = reinterpret_cast<const float*>(of_rows);
      b.column_bound = reinterpret_cast<const float*>(of_columns);
      return filter().survivors(dots + from * kTileColumns, b, count, masks + from);
    };

    int count = 0;
    int32_t diagonal_rank[kTileColumns];
    if (!diagonal) {
      count = ask ? test(row_bound, column_bound, rows, 0) : kDenseHits + 1;
    } else {
      for (int r = 0; r < rows; ++r) {
        alignas(64) F own[kTileColumns];
        F running = 0;
        const F none = -std::numeric_limits<F>::infinity();
        for (int64_t j = 0; j < kTileColumns; ++j) {
          const int64_t q = columns + j;
          if (q > i + r && q < points_.m) running = std::max(running, gap[q]);
          own[j] = q > i + r && q < points_.m ? running : none;
        }
        count += test(&none, own, 1, r);
      }
    }
    if (counting_) {
      tested_ += rows * kTileColumns;
      hits_ += count;
      return;
    }
    if (count == 0) {
      streak_ = 0;
      flush();
      return;
    }
    if (points_.coded) flush();
    const bool whole = points_.coded && count > kDenseHits;
    streak_ = whole ? streak_ + 1 : 0;
    if (whole) {
      const T* a[kTileRows];
      const T* b[kTileColumns];
      for (int64_t r = 0; r < kTileRows; ++r) a[r] = points_.row(std::min(i + r, points_.m - 1));
      for (int64_t j = 0; j < kTileColumns; ++j)
        b[j] = points_.row(std::min(columns + j, points_.m - 1));
      points_.table.rectangle(a, b, points_.stride, points_.cloud.term, keys);
      if (!diagonal) {
        alignas(64) T row_key[kTileRows], column_key[kTileColumns];
        for (int r = 0; r < rows; ++r) row_key[r] = known_.height[row_rank[r]];
        for (int j = 0; j < kTileColumns; ++j) column_key[j] = known_.height[column_rank[j]];
        points_.table.hits(keys, row_key, column_key, rows, masks);
      }
    }
    const int64_t valid_columns = std::min(points_.m - columns, kTileColumns);
    const uint64_t valid = (uint64_t{1} << valid_columns) - 1;
    for (int r = 0; r < rows; ++r) masks[r] &= valid;
    for (int r = 0; r < rows; ++r) {
      if (masks[r] == 0) continue;
      if (diagonal) {
        int32_t running = 0;
        for (int64_t j = 0; j < kTileColumns; ++j) {
          const int64_t q = columns + j;
          if (q > i + r && q < points_.m) running = std::max(running, known_.rank[q]);
          diagonal_rank[j] = running;
        }
      }
      for (uint64_t mask = masks[r]; mask; mask &= mask - 1) {
        const int j = __builtin_ctzll(mask);
        const int32_t rank = diagonal ? diagonal_rank[j] : std::max(row_rank[r], column_rank[j]);
        if (points_.coded && !whole) {
          enqueue_candidate(i + r, columns + j, rank);
        } else {
          const Link<T> l = points_.link(keys[r * kTileColumns + j], i + r, columns + j);
          if (known_.within(points_, l, rank)) collector_.add(l);
        }
      }
    }
  }

  // Postpones the key of a pair until its rows, prefetched here, have arrived from memory.
  void enqueue_candidate(int64_t p, int64_t q, int32_t rank) {
    pending_.push_back({points_.id(p), points_.id(q)});
    pending_link_.push_back(points_.link(T{0}, p, q));
    pending_rank_.push_back(rank);
    const char* x = reinterpret_cast<const char*>(points_.row(p));
    const char* y = reinterpret_cast<const char*>(points_.row(q));
    const int64_t bytes = points_.stride * static_cast<int64_t>(sizeof(T));
    for (int64_t k = 0; k < bytes; k += 64) {
      __builtin_prefetch(x + k);
      __builtin_prefetch(y + k);
    }
  }

  const LargePoints<T>& points_;
  const KnownForest<T>& known_;
  const bool counting_;
  Collector<T> collector_;
  int64_t tested_ = 0;
  int64_t hits_ = 0;
  int64_t streak_ = 0;  // tiles in a row that had to be evaluated whole
  // Candidates whose rows are on their way from memory.
  std::vector<Pair> pending_;
  std::vector<Link<T>> pending_link_;
  std::vector<int32_t> pending_rank_;
  std::vector<T> keys_;
};

}  // namespace tsloss
