#include "cpu/shards.h"

#include <algorithm>
#include <deque>
#include <map>
#include <stdexcept>

#include "cpu/distinct.h"
#include "cpu/forest.h"
#include "cpu/large.h"
#include "cpu/lineup.h"
#include "cpu/nearest.h"
#include "cpu/rows.h"
#include "cpu/thread_pool.h"
#include "cpu/tuning.h"

namespace tsloss {
namespace {

constexpr int64_t kLongStreak = 16;

// An edge by the numbers of its points in the cloud, and by those in the blocks at hand.
struct Found : Edge<double> {
  int32_t a;
  int32_t b;
};

// Keeps the minimum spanning forest of edges whose a, b are below n.
void keep_found_forest(std::vector<Found>& found, UnionFind& sets, int64_t n) {
  std::sort(found.begin(), found.end());
  sets.reset(n);
  size_t kept = 0;
  for (const Found& f : found) {
    const int64_t x = sets.find(f.a), y = sets.find(f.b);
    if (x == y) continue;
    sets.unite(x, y);
    found[kept++] = f;
  }
  found.resize(kept);
}

template <class T>
double key_of(const T* x, const T* y, int64_t stride, Term term, bool robust) {
  if (robust) return robust_length(x, y, stride, term);
  return kernels<T>().refine(x, y, stride, term);
}

// Points in the order of the forest.
template <class T>
struct Block {
  explicit Block(int64_t dim) : line(dim, scratch) {}

  typename Lineup<T>::Scratch scratch;
  Lineup<T> line;
  Rows<T> rows{};
  const int64_t* ids = nullptr;
  std::vector<int32_t> order;     // by place: index in the block
  std::vector<int32_t> position;  // by place: that in the order of all points
  // By place: the largest rank between the position before (exclusive) and this one.
  std::vector<int32_t> rank;

  int64_t size() const { return static_cast<int64_t>(order.size()); }
  const T* row(int64_t place) const { return rows[order[place]]; }
  int64_t id(int64_t place) const { return ids[order[place]]; }
};

template <class T>
class Shards final : public ShardFilter {
 public:
  explicit Shards(const ShardCloud& cloud)
      : cloud_(cloud),
        stride_(round_up(std::max<int64_t>(cloud.dim, 1), kLanes)),
        table_(kernels<T>()),
        coded_(filters_by_codes(cloud.term, cloud.dim)) {
    const int64_t units =
        coded_ ? table_.rounding(stride_)
               : std::max(table_.rounding(stride_), table_.panel_rounding(cloud.dim));
    band_ = cloud.lattice ? T{1} : band_of<T>(units, stride_);
  }

  void set_forest(int64_t n, const double* keys, const int64_t* edges) override {
    forest_.clear();
    for (int64_t k = 0; k + 1 < n; ++k) {
      forest_.push_back({keys[k], edges[2 * k], edges[2 * k + 1]});
    }
    std::vector<int32_t> order(static_cast<size_t>(n));
    rank_.resize(order.size());
    position_.resize(order.size());
    forest_order(n, edges, order.data(), rank_.data());
    for (int64_t p = 0; p < n; ++p) position_[order[p]] = static_cast<int32_t>(p);
    height_.resize(forest_.size());
    std::transform(forest_.begin(), forest_.end(), height_.begin(),
                   [&](const Edge<double>& e) { return static_cast<T>(e.length) * band_; });
    blocks_.clear();
    frame_height_.clear();
  }

  void load(int64_t slot, const void* rows, const int64_t* ids, int64_t count) override {
    Block<T>& block = blocks_.try_emplace(slot, cloud_.dim).first->second;
    block.rows = {static_cast<const T*>(rows), stride_, stride_};
    block.ids = ids;
    block.order.resize(static_cast<size_t>(count));
    std::iota(block.order.begin(), block.order.end(), 0);
    block.position.clear();
    if (!position_.empty()) place(block);
    if (count == 0 || cloud_.robust) return;
    if (!coded_) {
      const auto copy = [&](int64_t p, T* x) { std::copy_n(block.row(p), stride_, x); };
      return block.line.pack(count, cloud_.threads, copy);
    }
    if (!frame_.chosen()) {
      frame_.choose(std::min<int64_t>(count, 256), stride_, static_cast<T>(cloud_.largest),
                    [&](int64_t p) { return block.row(p); });
    }
    if (frame_height_.size() != height_.size()) {
      frame_height_.resize(height_.size());
      std::transform(height_.begin(), height_.end(), frame_height_.begin(),
                     [&](T h) { return frame_.bound(h); });
    }
    block.line.encode(count, frame_, cloud_.threads, [&](int64_t p) { return block.row(p); });
  }

  void near(int64_t slot_a, int64_t slot_b) override {
    const Block<T>&a = blocks_.at(slot_a), &b = blocks_.at(slot_b);
    std::vector<Found> all;
    if (a.size() == 0 || b.size() == 0) return give(all);
    if (cloud_.robust) {  // rare: everyone beside the first
      for (int64_t p = 0; p < a.size(); ++p) add_near(a, b, p, 0, all);
      for (int64_t q = 1; q < b.size(); ++q) add_near(a, b, 0, q, all);
    } else {
      std::vector<std::vector<Found>> found(static_cast<size_t>(cloud_.threads));
      std::deque<Nearest<T>> searches;
      for (int slot = 0; slot < cloud_.threads; ++slot) {
        searches.emplace_back(a.line, b.line, coded_, cloud_.term);
      }
      parallel_for((a.size() + kPanel - 1) / kPanel, cloud_.threads, [&](int64_t ip, int slot) {
        searches[slot].row(
            ip, 0, [](int64_t) { return true; },
            [&](int64_t p, int64_t q, float) { add_near(a, b, p, q, found[slot]); });
      });
      for (const auto& part : found) all.insert(all.end(), part.begin(), part.end());
      for (const auto& search : searches) {
        search.columns([&](int64_t p, int64_t q, float) { add_near(a, b, p, q, all); });
      }
    }
    // Where no distance is finite, none is near.
    std::vector<char> joined(a.order.size(), 0);
    for (const Found& f : all) joined[f.a] = 1;
    for (int64_t p = 0; p < a.size(); ++p) {
      if (!joined[a.order[p]]) add_near(a, b, p, 0, all);
    }
    UnionFind sets(0);
    keep_found_forest(all, sets, a.size() + b.size());
    return give(all);
  }

  void between(int64_t slot_a, int64_t slot_b) override {
    const Block<T>&a = blocks_.at(slot_a), &b = blocks_.at(slot_b);
    if (a.position.size() != a.order.size() || b.position.size() != b.order.size()) {
      throw std::logic_error("a block was loaded before the forest was set");
    }
    std::vector<Found> all;
    if (a.size() == 0 || b.size() == 0) return give(all);
    const bool same = &a == &b;
    std::vector<std::unique_ptr<Worker>> workers(static_cast<size_t>(cloud_.threads));
    const int64_t columns = (b.size() + kTileColumns - 1) / kTileColumns;
    parallel_for(columns, cloud_.threads, [&](int64_t task, int slot) {
      if (!workers[slot]) workers[slot] = std::make_unique<Worker>(*this, a, b);
      filter_block(columns - 1 - task, same, *workers[slot]);
    });
    for (auto& worker : workers) {
      if (!worker) continue;
      worker->flush();
      all.insert(all.end(), worker->found.begin(), worker->found.end());
      lost_digits_ = lost_digits_ || worker->lost_digits;
    }
    UnionFind sets(0);
    keep_found_forest(all, sets, same ? a.size() : a.size() + b.size());
    return give(all);
  }

 private:
  void give(const std::vector<Found>& found) { result_.assign(found.begin(), found.end()); }

  void place(Block<T>& block) const {
    const auto at = [&](int32_t index) { return position_[block.ids[index]]; };
    std::sort(block.order.begin(), block.order.end(),
              [&](int32_t x, int32_t y) { return at(x) < at(y); });
    for (const int32_t index : block.order) block.position.push_back(at(index));
    block.rank.assign(block.order.size(), 0);
    for (int64_t p = 1; p < block.size(); ++p) {
      block.rank[p] = largest_rank(block.position[p - 1], block.position[p]);
    }
  }

  // The longest edge of the forest on the path between the points at two positions, from < to.
  int32_t largest_rank(int64_t from, int64_t to) const {
    return *std::max_element(rank_.begin() + from + 1, rank_.begin() + to + 1);
  }

  double exact_key(const T* x, const T* y) const {
    return key_of(x, y, stride_, cloud_.term, cloud_.robust);
  }

  Found edge(const Block<T>& a, const Block<T>& b, int64_t p, int64_t q, double key) const {
    const int64_t i = a.id(p), j = b.id(q);
    const int32_t offset = &a == &b ? 0 : static_cast<int32_t>(a.size());
    return {{key, std::min(i, j), std::max(i, j)}, a.order[p], offset + b.order[q]};
  }

  void add_near(const Block<T>& a, const Block<T>& b, int64_t p, int64_t q,
                std::vector<Found>& found) const {
    if (a.id(p) == b.id(q)) return;  // a point that stands in both
    found.push_back(edge(a, b, p, q, exact_key(a.row(p), b.row(q))));
  }

  struct Worker {
    Worker(const Shards& shards, const Block<T>& a, const Block<T>& b)
        : shards(shards),
          a(a),
          b(b),
          points(a.size() + b.size()),
          limit(static_cast<size_t>(points * std::max<int64_t>(4, shards.cloud_.dim / 8) + 4096)),
          sets(0) {}

    struct Pending {
      int32_t p, q, rank;
    };

    const Shards& shards;
    const Block<T>& a;
    const Block<T>& b;
    const int64_t points;
    const size_t limit;
    UnionFind sets;
    std::vector<Found> found;
    std::vector<Pending> pending;  // pairs that wait for their rows to arrive from memory
    bool lost_digits = false;
    int64_t streak = 0;  // tiles in a row that had to be evaluated whole

    void await(int64_t p, int64_t q, int32_t rank) {
      pending.push_back({static_cast<int32_t>(p), static_cast<int32_t>(q), rank});
      const char* x = reinterpret_cast<const char*>(a.row(p));
      const char* y = reinterpret_cast<const char*>(b.row(q));
      const int64_t bytes = shards.stride_ * static_cast<int64_t>(sizeof(T));
      for (int64_t k = 0; k < bytes; k += 64) {
        __builtin_prefetch(x + k);
        __builtin_prefetch(y + k);
      }
    }

    void flush() {
      for (const Pending& w : pending) {
        add(w.p, w.q, w.rank, shards.exact_key(a.row(w.p), b.row(w.q)));
      }
      pending.clear();
    }

    void add(int64_t p, int64_t q, int32_t rank, double key) {
      const Found f = shards.edge(a, b, p, q, key);
      if (key == 0 && !std::equal(a.row(p), a.row(p) + shards.stride_, b.row(q))) {
        lost_digits = true;
      }
      if (!(f < shards.forest_[rank])) return;
      found.push_back(f);
      if (found.size() >= limit) keep_found_forest(found, sets, points);
    }
  };

  // Ranks that bound the pairs of some rows with a block: the larger of one of the row and one of
  // the column, or one for each pair (-1: not to be looked at).
  struct Limits {
    const int32_t* row = nullptr;
    const int32_t* column = nullptr;
    const int32_t* each = nullptr;

    int32_t operator()(int64_t r, int64_t j) const {
      return each ? each[r * kTileColumns + j] : std::max(row[r], column[j]);
    }
  };

  // All pairs of block t of b with points of a; if they are the same, those of a lower place.
  void filter_block(int64_t t, bool same, Worker& worker) const {
    const Block<T>&a = worker.a, &b = worker.b;
    const int64_t begin = t * kTileColumns, end = std::min(b.size(), begin + kTileColumns);
    const int64_t panels = (a.size() + kPanel - 1) / kPanel;
    // The largest rank from the first column to each, and from each to the last one.
    int32_t from_first[kTileColumns] = {}, to_last[kTileColumns] = {};
    for (int64_t q = begin + 1; q < end; ++q) {
      from_first[q - begin] = std::max(from_first[q - begin - 1], b.rank[q]);
    }
    for (int64_t q = end - 1; q > begin; --q) {
      to_last[q - begin - 1] = std::max(to_last[q - begin], b.rank[q]);
    }
    const auto place_in_a = [&](int32_t position, bool after) {
      const auto& v = a.position;
      return (after ? std::upper_bound(v.begin(), v.end(), position)
                    : std::lower_bound(v.begin(), v.end(), position)) -
             v.begin();
    };
    // Rows before `left` come before all columns, those from `right` on after them.
    const int64_t left = place_in_a(b.position[begin], false);
    const int64_t right = place_in_a(b.position[end - 1], true);

    int32_t rank[kPanel];
    int32_t running = left > 0 ? largest_rank(a.position[left - 1], b.position[begin]) : 0;
    const int64_t whole_left = left == a.size() ? panels : left / kPanel;
    for (int64_t p = left - 1; p >= 0; --p) {
      rank[p % kPanel] = running;
      running = std::max(running, a.rank[p]);
      if (p % kPanel == 0 && p / kPanel < whole_left) {
        filter_panel(p / kPanel, t, {rank, from_first, nullptr}, worker);
      }
    }
    int64_t whole_right = panels;
    if (!same && right < a.size()) {
      whole_right = (right + kPanel - 1) / kPanel;
      running = largest_rank(b.position[end - 1], a.position[right]);
      for (int64_t p = right; p < a.size(); ++p) {
        if (p > right) running = std::max(running, a.rank[p]);
        rank[p % kPanel] = running;
        const bool last = p % kPanel == kPanel - 1 || p + 1 == a.size();
        if (last && p / kPanel >= whole_right) {
          filter_panel(p / kPanel, t, {rank, to_last, nullptr}, worker);
        }
      }
    } else if (same) {
      whole_right = (end + kPanel - 1) / kPanel;
    }
    for (int64_t ip = whole_left; ip < whole_right; ++ip) {
      int32_t each[kPanel * kTileColumns];
      std::fill_n(each, kPanel * kTileColumns, -1);
      for (int64_t p = ip * kPanel; p < std::min(a.size(), (ip + 1) * kPanel); ++p) {
        rank_each(a.position[p], b, begin, end, same, each + p % kPanel * kTileColumns);
      }
      filter_panel(ip, t, {nullptr, nullptr, each}, worker);
    }
  }

  // The largest rank between a position and each of the columns, which may lie on both sides.
  void rank_each(int32_t position, const Block<T>& b, int64_t begin, int64_t end, bool same,
                 int32_t* each) const {
    const int64_t after =
        std::upper_bound(b.position.begin() + begin, b.position.begin() + end, position) -
        b.position.begin();
    for (int64_t q = after; q < end; ++q) {
      each[q - begin] = q == after ? largest_rank(position, b.position[q])
                                   : std::max(each[q - begin - 1], b.rank[q]);
    }
    if (same) return;
    for (int64_t q = after - 1; q >= begin; --q) {
      each[q - begin] = q == after - 1 ? largest_rank(b.position[q], position)
                                       : std::max(each[q - begin + 1], b.rank[q + 1]);
    }
  }

  void filter_panel(int64_t ip, int64_t t, Limits limits, Worker& worker) const {
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t i = ip * kPanel + half * kTileRows;
      const int rows = static_cast<int>(std::min(kTileRows, worker.a.size() - i));
      if (rows <= 0) break;
      Limits own = limits;
      if (own.each) {
        own.each += half * kTileRows * kTileColumns;
      } else {
        own.row += half * kTileRows;
      }
      if (cloud_.robust) {
        visit_tile(i, t, rows, own, worker);
      } else if (coded_) {
        filter_tile(i, t, rows, own, worker);
      } else {
        measure_tile(i, t, rows, own, worker);
      }
    }
  }

  // Every pair, one at a time.
  void visit_tile(int64_t i, int64_t t, int rows, const Limits& limits, Worker& worker) const {
    const int64_t begin = t * kTileColumns, end = std::min(worker.b.size(), begin + kTileColumns);
    for (int r = 0; r < rows; ++r) {
      for (int64_t q = begin; q < end; ++q) {
        const int32_t rank = limits(r, q - begin);
        if (rank < 0) continue;
        worker.add(i + r, q, rank, exact_key(worker.a.row(i + r), worker.b.row(q)));
      }
    }
  }

  // masks[r] = the columns of row r for which test(row bounds, column bounds) does not rule out an
  // edge; bounds are those of the ranks, in the type that `heights` are.
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

  // By the distances themselves.
  void measure_tile(int64_t i, int64_t t, int rows, const Limits& limits, Worker& worker) const {
    alignas(64) T keys[kTileRows * kTileColumns];
    uint64_t masks[kTileRows];
    worker.a.line.panel_keys(i, worker.b.line, t, cloud_.term, keys);
    add_hits(i, t, rows, limits, keys, masks, worker);
  }

  void add_hits(int64_t i, int64_t t, int rows, const Limits& limits, const T* keys,
                uint64_t* masks, Worker& worker) const {
    const auto test = [&](const T* row, const T* column, int count, int from) {
      return table_.hits(keys + from * kTileColumns, row, column, count, masks + from);
    };
    if (ask(height_, rows, limits, test) == 0) return;
    visit_hits(t, rows, masks, worker, [&](int64_t r, int64_t q, int64_t j) {
      const double key = cloud_.lattice ? double(keys[r * kTileColumns + j])
                                        : exact_key(worker.a.row(i + r), worker.b.row(q));
      worker.add(i + r, q, limits(r, j), key);
    });
  }

  template <class Hit>
  void visit_hits(int64_t t, int rows, const uint64_t* masks, const Worker& worker,
                  const Hit& hit) const {
    const int64_t begin = t * kTileColumns;
    const int64_t columns = std::min(worker.b.size() - begin, kTileColumns);
    const uint64_t valid = (uint64_t{1} << columns) - 1;
    for (int r = 0; r < rows; ++r) {
      for (uint64_t mask = masks[r] & valid; mask; mask &= mask - 1) {
        const int j = __builtin_ctzll(mask);
        hit(r, begin + j, j);
      }
    }
  }

  // By codes first.
  void filter_tile(int64_t i, int64_t t, int rows, const Limits& limits, Worker& worker) const {
    const Block<T>&a = worker.a, &b = worker.b;
    uint64_t masks[kTileRows];
    // Where the filter has not filtered for a while, it is asked only now and then.
    const bool asked = worker.streak < kLongStreak || worker.streak % kLongStreak == 0;
    int count = kDenseHits + 1;
    if (asked) {
      alignas(64) int32_t dots[kTileRows * kTileColumns];
      const TileSides sides = a.line.tile_sides(i, rows, b.line.largest_norm(t));
      a.line.dot(i, b.line, t, dots);
      count =
          ask(frame_height_, rows, limits,
              [&](const float* row, const float* column, int number, int from) {
                TileBounds bounds = b.line.tile_bounds(sides, t);
                bounds.row_scale += from;
                bounds.row_low += from;
                bounds.row_bound = row;
                bounds.column_bound = column;
                return filter().survivors(dots + from * kTileColumns, bounds, number, masks + from);
              });
    }
    worker.flush();
    if (count == 0) {
      worker.streak = 0;
      return;
    }
    if (count > kDenseHits) {
      ++worker.streak;
      alignas(64) T keys[kTileRows * kTileColumns];
      const T* x[kTileRows];
      const T* y[kTileColumns];
      for (int64_t r = 0; r < kTileRows; ++r) x[r] = a.row(std::min(i + r, a.size() - 1));
      for (int64_t j = 0; j < kTileColumns; ++j) {
        y[j] = b.row(std::min(t * kTileColumns + j, b.size() - 1));
      }
      table_.rectangle(x, y, stride_, cloud_.term, keys);
      return add_hits(i, t, rows, limits, keys, masks, worker);
    }
    worker.streak = 0;
    visit_hits(t, rows, masks, worker,
               [&](int64_t r, int64_t q, int64_t j) { worker.await(i + r, q, limits(r, j)); });
  }

  const ShardCloud cloud_;
  const int64_t stride_;
  const Kernels<T>& table_;
  const bool coded_;
  T band_;
  Frame<T> frame_;

  std::vector<Edge<double>> forest_;  // by rank
  std::vector<int32_t> position_;     // by number
  std::vector<int32_t> rank_;         // by position; see merge_order
  std::vector<T> height_;             // by rank, as an upper bound of keys
  std::vector<float> frame_height_;
  std::map<int64_t, Block<T>> blocks_;
};

template <class T, class W>
Shard load_as(Metric metric, const T* points, int64_t n, int64_t dim, W* rows, int threads) {
  const int64_t stride = round_up(std::max<int64_t>(dim, 1), kLanes);
  Shard shard;
  const auto load = [&](int64_t i, W* x) { return load_point(metric, points, dim, stride, i, x); };
  Distinct<W> distinct = find_distinct<W>(n, stride, threads, load, shard.joined);
  shard.finding = distinct.finding;
  if (shard.finding.problem != Problem::kNone) return shard;
  shard.largest = double(distinct.largest);
  shard.lattice = distinct.lattice;
  shard.ids.assign(distinct.ids.begin(), distinct.ids.end());
  constexpr int64_t kGrain = 48;
  const int64_t count = static_cast<int64_t>(shard.ids.size());
  parallel_for((count + kGrain - 1) / kGrain, threads, [&](int64_t task, int) {
    for (int64_t k = task * kGrain; k < std::min(count, (task + 1) * kGrain); ++k) {
      load(shard.ids[k], rows + k * stride);
    }
  });
  return shard;
}

template <class T>
void keys_as(Term term, bool robust, const T* rows, int64_t stride, int64_t count, const int64_t* a,
             const int64_t* b, double* keys) {
  for (int64_t k = 0; k < count; ++k) {
    keys[k] = key_of(rows + a[k] * stride, rows + b[k] * stride, stride, term, robust);
  }
}

template <class T>
Finding finish_as(Metric metric, bool robust, int64_t count, const double* keys,
                  const int64_t* edges, T* deaths, int64_t* sorted_edges) {
  std::vector<Edge<T>> result;
  for (int64_t k = 0; k < count; ++k) {
    result.push_back(
        {static_cast<T>(length_of(metric, keys[k], !robust)), edges[2 * k], edges[2 * k + 1]});
  }
  std::sort(result.begin(), result.end());
  for (int64_t k = 0; k < count; ++k) {
    deaths[k] = result[k].length;
    sorted_edges[2 * k] = result[k].i;
    sorted_edges[2 * k + 1] = result[k].j;
  }
  if (count == 0 || std::isfinite(result.back().length)) return {};
  return {Problem::kOverflow, 0, result.back().i, result.back().j};
}

}  // namespace

std::unique_ptr<ShardFilter> make_shard_filter(Dtype dtype, const ShardCloud& cloud) {
  if (dtype == Dtype::kFloat64) return std::make_unique<Shards<double>>(cloud);
  return std::make_unique<Shards<float>>(cloud);
}

Shard load_shard(Dtype dtype, Metric metric, const void* points, int64_t n, int64_t dim, void* rows,
                 int threads) {
  if (dtype == Dtype::kFloat64) {
    return load_as(metric, static_cast<const double*>(points), n, dim, static_cast<double*>(rows),
                   threads);
  }
  const float* x = static_cast<const float*>(points);
  if (metric == Metric::kCosine) {
    return load_as(metric, x, n, dim, static_cast<double*>(rows), threads);
  }
  return load_as(metric, x, n, dim, static_cast<float*>(rows), threads);
}

int64_t spanning_forest(int64_t n, int64_t count, double* keys, int64_t* edges) {
  std::vector<Edge<double>> links(static_cast<size_t>(count));
  for (int64_t k = 0; k < count; ++k) links[k] = {keys[k], edges[2 * k], edges[2 * k + 1]};
  UnionFind sets(0);
  keep_exact_forest(links, sets, n);
  for (size_t k = 0; k < links.size(); ++k) {
    keys[k] = links[k].length;
    edges[2 * k] = links[k].i;
    edges[2 * k + 1] = links[k].j;
  }
  return static_cast<int64_t>(links.size());
}

void forest_order(int64_t n, const int64_t* edges, int32_t* order, int32_t* rank) {
  std::vector<Link<double>> links;
  for (int64_t k = 0; k + 1 < n; ++k) {
    links.push_back(
        {0, static_cast<int32_t>(edges[2 * k]), static_cast<int32_t>(edges[2 * k + 1])});
  }
  UnionFind sets(0);
  std::vector<int32_t> points, ranks;
  std::vector<double> gap;
  merge_order(links, sets, n, points, gap, ranks);
  std::copy(points.begin(), points.end(), order);
  std::copy(ranks.begin(), ranks.end(), rank);
  rank[0] = 0;
}

void exact_keys(Dtype dtype, Metric metric, bool robust, const void* rows, int64_t stride,
                int64_t count, const int64_t* a, const int64_t* b, double* keys) {
  const Term term = term_of(metric);
  if (dtype == Dtype::kFloat64) {
    keys_as(term, robust, static_cast<const double*>(rows), stride, count, a, b, keys);
  } else {
    keys_as(term, robust, static_cast<const float*>(rows), stride, count, a, b, keys);
  }
}

bool keys_in_range(Dtype dtype, Metric metric, int64_t dim, int64_t count, const double* keys) {
  if (metric != Metric::kEuclidean && metric != Metric::kSqeuclidean) return true;
  const bool wide = dtype == Dtype::kFloat64;
  const double limit = wide ? underflow_limit<double>(dim) : double(underflow_limit<float>(dim));
  const double most =
      wide ? std::numeric_limits<double>::max() : double(std::numeric_limits<float>::max());
  return std::all_of(keys, keys + count,
                     [&](double key) { return key == 0 || (key >= limit && key <= most); });
}

Finding finish_tree(Dtype dtype, Metric metric, bool robust, int64_t count, const double* keys,
                    const int64_t* edges, void* deaths, int64_t* sorted_edges) {
  if (dtype == Dtype::kFloat64) {
    return finish_as(metric, robust, count, keys, edges, static_cast<double*>(deaths),
                     sorted_edges);
  }
  return finish_as(metric, robust, count, keys, edges, static_cast<float*>(deaths), sorted_edges);
}

}  // namespace tsloss
