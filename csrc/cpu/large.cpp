#include "cpu/large.h"

#include <cmath>
#include <deque>
#include <memory>
#include <numeric>

#include "cpu/collector.h"
#include "cpu/distinct.h"
#include "cpu/forest.h"
#include "cpu/lineup.h"
#include "cpu/monitor.h"
#include "cpu/nearest.h"
#include "cpu/random.h"
#include "cpu/thread_pool.h"
#include "cpu/tuning.h"

namespace tsloss {
namespace {

constexpr int64_t kLongStreak = 16;

template <class T>
class Large {
 public:
  Large(const LargeCloud<T>& cloud, int threads, LargeScratch<T>& scratch)
      : cloud_(cloud),
        threads_(threads),
        stride_(round_up(std::max<int64_t>(cloud.dim, 1), kLanes)),
        table_(kernels<T>()),
        coded_(cloud.rows.data != nullptr),
        sets_(0),
        line_(cloud.dim, scratch) {
    random_.state = overrides().seed;
  }

  // For tests: whether the filter keeps each pair (i, j), i < j, if the bound is its own exact key
  // times `factor`. At a factor of 1 it has to.
  void keeps(double factor, uint8_t* kept) {
    m_ = cloud_.n;
    ids_.resize(static_cast<size_t>(m_));
    std::iota(ids_.begin(), ids_.end(), 0);
    order_ = ids_;
    for (int64_t i = 0; i < m_; ++i) {
      for (int64_t k = 0; k < stride_; ++k) {
        largest_ = std::max(largest_, std::fabs(cloud_.rows[i][k]));
      }
    }
    gather();
    for (int64_t i = 0; i < m_; i += kTileRows) {
      const int rows = static_cast<int>(std::min(kTileRows, m_ - i));
      for (int64_t t = 0; t < line_.blocks(); ++t) {
        alignas(64) int32_t dots[kTileRows * kTileColumns];
        line_.dot(i, line_, t, dots);
        const TileSides sides = line_.tile_sides(i, rows, line_.largest_norm(t));
        for (int r = 0; r < rows; ++r) {
          alignas(64) float bound[kTileColumns];
          const float none = -std::numeric_limits<float>::infinity();
          std::fill_n(bound, kTileColumns, none);
          const int64_t end = std::min(m_ - t * kTileColumns, kTileColumns);
          for (int64_t j = 0; j < end; ++j) {
            const int32_t q = static_cast<int32_t>(t * kTileColumns + j);
            bound[j] =
                frame_.bound(static_cast<T>(exact_key(static_cast<int32_t>(i + r), q) * factor));
          }
          uint64_t mask;
          TileBounds b = line_.tile_bounds(sides, t);
          b.row_scale += r;
          b.row_low += r;
          b.row_bound = &none;
          b.column_bound = bound;
          filter_.survivors(dots + r * kTileColumns, b, 1, &mask);
          for (int64_t j = 0; j < end; ++j) {
            kept[(i + r) * m_ + t * kTileColumns + j] = (mask >> j) & 1;
          }
        }
      }
    }
  }

  LargeResult run() {
    LargeResult result;
    Monitor::Part part(0, 0.02);
    result.finding = find_duplicates(result.tree);
    if (result.finding.problem != Problem::kNone) return result;
    m_ = static_cast<int64_t>(ids_.size());
    if (m_ == 1) return result;
    choose_band();

    order_.resize(ids_.size());
    std::iota(order_.begin(), order_.end(), 0);
    for (size_t k = order_.size() - 1; k > 0; --k) {
      std::swap(order_[k], order_[random_() % (k + 1)]);
    }
    gather();
    if (coded_ && dense_is_possible() && blurred()) {
      result.filters = false;
      result.tree.clear();
      return result;
    }
    part.is(0.02, 0.08);
    std::vector<Link<T>> forest = sample();
    if (!(result.in_range = in_range(forest))) return result;

    part.is(0.08, 0.2);
    prepare(forest);
    const int64_t wish = overrides().wave_one_in;
    const double hits = wish == 0 ? expected_hits() : 0;
    if (coded_ && hits > double(m_) / 8 && cloud_.dim < kSmallDimension) {
      // Codes do not tell these points apart, and distances cost little more.
      coded_ = false;
      choose_band();
      prepare(forest);
    }
    if (wish > 0 || hits > kHitsForWave) {
      const auto improve = [&](int64_t one_in) {
        forest = wave(forest, one_in);
        keep_forest(forest, sets_, m_);
        prepare(forest);
      };
      // A sample that knew no better than chance lets whole tiles through: few of them first.
      if (hits > double(m_) / 8) improve(wish > 0 ? wish : kFirstWaveOneIn);
      improve(wish > 0 ? wish : kWaveOneIn);
    }
    part.is(0.2, 1);
    forest = wave(forest, 1);
    finish(forest, result.tree);
    return result;
  }

 private:
  using Links = std::vector<Link<T>>;

  int32_t id(int64_t position) const { return ids_[order_[position]]; }
  const T* row(int64_t position) const { return cloud_.rows[id(position)]; }

  void choose_band() {
    const int64_t units =
        coded_ ? table_.rounding(stride_)
               : std::max(table_.rounding(stride_), table_.panel_rounding(cloud_.dim));
    band_ = lattice_ ? T{1} : band_of<T>(units, stride_);
  }

  // Loads and checks every point on the way.
  Finding find_duplicates(std::vector<Edge<double>>& tree) {
    const auto load = [&](int64_t i, T* x) {
      if (!coded_) return cloud_.load(i, x);
      std::copy_n(cloud_.rows[i], stride_, x);
      return table_.all_finite(x, stride_) ? Problem::kNone : Problem::kNonFinite;
    };
    Distinct<T> distinct = find_distinct<T>(cloud_.n, stride_, threads_, load, tree);
    lattice_ = distinct.lattice;
    largest_ = distinct.largest;
    ids_ = std::move(distinct.ids);
    return distinct.finding;
  }

  // Brings the points into order_: as codes, or as panels.
  void gather() {
    const auto point = [&](int64_t p) { return row(p); };
    if (!coded_) {
      line_.pack(m_, threads_, [&](int64_t p, T* x) { cloud_.load(id(p), x); });
      return;
    }
    // At first they are in random order.
    if (!frame_.chosen()) frame_.choose(std::min<int64_t>(m_, 256), stride_, largest_, point);
    line_.encode(m_, frame_, threads_, point);
  }

  // ---- the first forest ----

  // Approximate distances in some of the tiles give each point a few near neighbours; the minimum
  // spanning forest of those, with exact keys, and whatever it takes to connect it. Any spanning
  // tree would do: a better one filters better.
  Links sample() {
    const int64_t one_in = overrides().sample_one_in > 0 ? overrides().sample_one_in : kSampleOneIn;
    const uint64_t seed = random_();
    std::vector<Links> found(static_cast<size_t>(threads_));
    std::deque<Nearest<T>> searches;
    for (int slot = 0; slot < threads_; ++slot) {
      searches.emplace_back(line_, line_, coded_, cloud_.term);
    }
    parallel_for(line_.panels(), threads_, [&](int64_t ip, int slot) {
      if (ip * kPanel >= m_) return;
      Random random{seed + uint64_t(ip)};
      // The tiles at the diagonal are always looked at: no point goes without a neighbour.
      const auto chosen = [&](int64_t t) {
        return random() % uint64_t(one_in) == 0 || ip + 1 >= kTilePanels * t;
      };
      searches[slot].row(ip, ip / kTilePanels, chosen, [&](int64_t p, int64_t q, float near) {
        found[slot].push_back(link(T(near), p, q));
      });
    });
    Links links;
    for (Links& part : found) links.insert(links.end(), part.begin(), part.end());
    for (const auto& search : searches) {
      search.columns(
          [&](int64_t p, int64_t q, float near) { links.push_back(link(T(near), p, q)); });
    }
    Links scratch;
    sort_by_key(links, scratch);
    keep_forest(links, sets_, m_);
    evaluate(links);
    connect(links);
    std::sort(links.begin(), links.end());
    return links;
  }

  Link<T> link(T key, int64_t p, int64_t q) const {
    const int32_t a = order_[p], b = order_[q];
    return {key, std::min(a, b), std::max(a, b)};
  }

  // Direct keys of links, whose ends are numbers in ids_.
  void evaluate(Links& links) {
    constexpr int64_t kGrain = 256;
    const int64_t count = static_cast<int64_t>(links.size());
    parallel_for((count + kGrain - 1) / kGrain, threads_, [&](int64_t task, int) {
      const int64_t begin = task * kGrain, end = std::min(count, begin + kGrain);
      if (!coded_) {
        for (int64_t k = begin; k < end; ++k) {
          links[k].key = static_cast<T>(exact_key(links[k].i, links[k].j));
        }
        return;
      }
      Pair pairs[kGrain] = {};
      T keys[kGrain];
      for (int64_t k = begin; k < end; ++k) {
        pairs[k - begin] = {ids_[links[k].i], ids_[links[k].j]};
      }
      table_.pairs(cloud_.rows, cloud_.term, pairs, end - begin, keys);
      for (int64_t k = begin; k < end; ++k) links[k].key = keys[k - begin];
    });
  }

  // The key that decides: in double, the same on every path.
  double exact_key(int32_t i, int32_t j) const {
    if (coded_) {
      return table_.refine(cloud_.rows[ids_[i]], cloud_.rows[ids_[j]], stride_, cloud_.term);
    }
    static thread_local Buffer<T> buffer;
    T* x = buffer.reserve(2 * stride_);
    cloud_.load(ids_[i], x);
    cloud_.load(ids_[j], x + stride_);
    return table_.refine(x, x + stride_, stride_, cloud_.term);
  }

  // Joins the components of a forest: by a minimum spanning tree of one point of each if they are
  // few, else in a row.
  void connect(Links& forest) {
    sets_.reset(m_);
    for (const Link<T>& l : forest) sets_.unite(sets_.find(l.i), sets_.find(l.j));
    std::vector<int32_t> roots;
    for (int32_t v = 0; v < m_; ++v) {
      if (sets_.find(v) == v) roots.push_back(v);
    }
    constexpr size_t kFew = 256;
    Links bridges;
    for (size_t a = 0; a + 1 < roots.size(); ++a) {
      for (size_t b = a + 1; b < (roots.size() <= kFew ? roots.size() : a + 2); ++b) {
        bridges.push_back({T{0}, roots[a], roots[b]});
      }
    }
    evaluate(bridges);
    Links scratch;
    sort_by_key(bridges, scratch);
    UnionFind small(m_);
    keep_forest(bridges, small, m_);
    forest.insert(forest.end(), bridges.begin(), bridges.end());
  }

  bool in_range(const Links& forest) const {
    return std::all_of(forest.begin(), forest.end(), [&](const Link<T>& l) {
      return l.key >= underflow_limit<T>(stride_) && l.key < std::numeric_limits<T>::infinity();
    });
  }

  // ---- filter and repair ----

  // Orders the points by the forest.
  void prepare(const Links& forest) {
    forest_ = forest;
    exact_.clear();
    if (tied_ && !lattice_) {
      auto exact =
          with_exact_keys(forest, [this](int32_t i, int32_t j) { return exact_key(i, j); });
      std::sort(exact.begin(), exact.end());
      forest_.assign(exact.begin(), exact.end());
      exact_.assign(exact.begin(), exact.end());
    }
    merge_order(forest_, sets_, m_, order_, gap_, rank_);
    gather();
    gap_.resize(static_cast<size_t>(line_.padded()), T{0});
    rank_.resize(gap_.size(), 0);
    rank_[0] = 0;
    height_.resize(forest.size());
    std::transform(forest_.begin(), forest_.end(), height_.begin(),
                   [&](const Link<T>& l) { return l.key * band_; });
    gap_[0] = 0;
    for (T& g : gap_) g *= band_;
    if (coded_) {
      frame_gap_.resize(gap_.size());
      std::transform(gap_.begin(), gap_.end(), frame_gap_.begin(),
                     [&](T g) { return frame_.bound(g); });
    }
  }

  // Whether the dense path's N^2 keys take little memory.
  bool dense_is_possible() const {
    return overrides().path != Path::kLarge && m_ > cloud_.n / 2 &&
           (cloud_.n <= kFewPoints || cloud_.n <= 2 * cloud_.dim);
  }

  // Whether so many pairs cannot be told from the nearest one of a row that the dense path is
  // faster. Looks at a few tiles.
  bool blurred() {
    constexpr int kTiles = 16;
    Random random{random_()};
    int64_t tested = 0, found = 0;
    for (int k = 0; k < kTiles; ++k) {
      const int64_t i = random() % uint64_t(m_ / kTileRows) * kTileRows;
      const int64_t t = random() % uint64_t(m_ / kTileColumns);
      if (i / kTileColumns == t) continue;
      alignas(64) int32_t dots[kTileRows * kTileColumns];
      alignas(64) float near[kTileRows * kTileColumns];
      alignas(64) const float none[kTileColumns] = {};
      float least[kTileRows];
      uint64_t masks[kTileRows];
      line_.approximate(i, line_, t, kTileRows, near);
      for (int64_t r = 0; r < kTileRows; ++r) {
        const float* row = near + r * kTileColumns;
        least[r] = std::max(*std::min_element(row, row + kTileColumns), 0.0f);
      }
      line_.dot(i, line_, t, dots);
      const TileSides sides = line_.tile_sides(i, kTileRows, line_.largest_norm(t));
      TileBounds b = line_.tile_bounds(sides, t);
      b.row_bound = least;
      b.column_bound = none;
      found += filter_.survivors(dots, b, kTileRows, masks);
      tested += kTileRows * kTileColumns;
    }
    return double(found) > (m_ <= kFewPoints ? kBlurredFew : kBlurredMany) * double(tested);
  }

  // Hits a point that the filter would let through in all tiles, by a few of them.
  double expected_hits() {
    const int64_t kBlocks = m_ < 4096 ? 4 : 8, kTiles = kBlocks;
    Random random{random_()};
    Worker worker(*this);
    worker.counting = true;
    for (int64_t k = 0; k < kBlocks; ++k) {
      // Blocks are drawn by their number of tiles: the later one of two.
      const int64_t t = std::max(random() % line_.blocks(), random() % line_.blocks());
      const int64_t one_in = std::max<int64_t>(2, t * kTilePanels / kTiles);
      if (coded_) {
        filter_block(t, one_in, random, frame_gap_, worker);
      } else {
        filter_block(t, one_in, random, gap_, worker);
      }
      random();
    }
    if (worker.tested == 0) return 0;
    return double(worker.hits) / double(worker.tested) * double(m_) / 2;
  }

  // Looks at one in `one_in` of the tiles; returns the links that could be in the tree (of those
  // tiles and the forest), as contenders.
  Links wave(const Links& forest, int64_t one_in) {
    const uint64_t seed = random_();
    std::vector<std::unique_ptr<Worker>> workers(static_cast<size_t>(threads_));
    parallel_for(line_.blocks(), threads_, [&](int64_t task, int slot) {
      if (!workers[slot]) workers[slot] = std::make_unique<Worker>(*this);
      const int64_t t = line_.blocks() - 1 - task;  // the longest first
      if (coded_) {
        filter_block(t, one_in, Random{seed + uint64_t(t)}, frame_gap_, *workers[slot]);
      } else {
        filter_block(t, one_in, Random{seed + uint64_t(t)}, gap_, *workers[slot]);
      }
    });
    Links links;
    if (one_in > 1) links = forest;
    for (auto& worker : workers) {
      if (!worker) continue;
      worker->flush();
      const Links& part = worker->collector.links();
      links.insert(links.end(), part.begin(), part.end());
      worker.reset();
    }
    if (lattice_) {
      keep_exact_forest(links, sets_, m_);
      return links;
    }
    Links scratch;
    sort_by_key(links, scratch);
    keep_contenders(links, sets_, m_, band_);
    tied_ = static_cast<int64_t>(links.size()) > 2 * m_;
    return links;
  }

  // Whether a link could be in the tree, if the longest edge of the forest between its ends has
  // this rank. Ties in masses are decided at once: a cloud whose distances are all equal would else
  // keep all its pairs.
  bool within(const Link<T>& l, int32_t rank) const {
    if (lattice_) return !(forest_[rank] < l);
    if (l.key > height_[rank]) return false;
    if (exact_.empty() || l.key * band_ < forest_[rank].key) return true;
    return !(exact_[rank] < Edge<double>{exact_key(l.i, l.j), l.i, l.j});
  }

  struct Worker {
    explicit Worker(Large& large)
        : large(large),
          collector(large.m_, large.cloud_.dim, large.band_,
                    [this](int32_t i, int32_t j) { return this->large.exact_key(i, j); }) {}

    Large& large;
    Collector<T> collector;
    bool counting = false;  // hits are counted, and that is all
    int64_t tested = 0;
    int64_t hits = 0;
    int64_t streak = 0;  // tiles in a row that had to be evaluated whole
    // Pairs that wait for their rows to arrive from memory.
    std::vector<Pair> pending;
    std::vector<Link<T>> pending_link;
    std::vector<int32_t> pending_rank;
    std::vector<T> keys;

    void add(int64_t p, int64_t q, int32_t rank) {
      pending.push_back({large.id(p), large.id(q)});
      pending_link.push_back(large.link(T{0}, p, q));
      pending_rank.push_back(rank);
      const char* x = reinterpret_cast<const char*>(large.row(p));
      const char* y = reinterpret_cast<const char*>(large.row(q));
      const int64_t bytes = large.stride_ * static_cast<int64_t>(sizeof(T));
      for (int64_t k = 0; k < bytes; k += 64) {
        __builtin_prefetch(x + k);
        __builtin_prefetch(y + k);
      }
    }

    void flush() {
      const int64_t count = static_cast<int64_t>(pending.size());
      if (count == 0) return;
      keys.resize(pending.size());
      large.table_.pairs(large.cloud_.rows, large.cloud_.term, pending.data(), count, keys.data());
      for (int64_t k = 0; k < count; ++k) {
        Link<T>& l = pending_link[k];
        l.key = keys[k];
        if (large.within(l, pending_rank[k])) collector.add(l);
      }
      pending.clear();
      pending_link.clear();
      pending_rank.clear();
    }
  };

  template <class F>
  void filter_block(int64_t t, int64_t one_in, Random random, const std::vector<F>& gap,
                    Worker& worker) {
    const int64_t first = t * kTilePanels, columns = t * kTileColumns;
    const int64_t rows_end = std::min(first + kTilePanels, (m_ + kPanel - 1) / kPanel);
    // The largest gap from the start of the block (inclusive) to each column, and its rank.
    alignas(64) F column_bound[kTileColumns];
    int32_t column_rank[kTileColumns];
    F running = 0;
    int32_t running_rank = 0;
    for (int64_t j = 0; j < kTileColumns; ++j) {
      column_bound[j] = running = std::max(running, gap[columns + j]);
      column_rank[j] = running_rank = std::max(running_rank, rank_[columns + j]);
    }
    const float largest = coded_ ? line_.largest_norm(t) : 0;
    F between = 0;  // the largest gap from the end of the row's panel to the start of the block
    int32_t between_rank = 0;
    for (int64_t ip = rows_end - 1; ip >= 0; --ip) {
      const bool diagonal = ip >= first;
      if (diagonal && worker.counting) continue;
      if (ip + 1 < first) {
        for (int64_t p = (ip + 1) * kPanel; p < (ip + 2) * kPanel; ++p) {
          between = std::max(between, gap[p]);
          between_rank = std::max(between_rank, rank_[p]);
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
        inside_rank = std::max(inside_rank, rank_[ip * kPanel + l]);
      }
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t i = ip * kPanel + half * kTileRows;
        const int rows = static_cast<int>(std::min(kTileRows, m_ - i));
        if (rows <= 0) break;
        filter_tile(i, t, rows, diagonal, row_bound + half * kTileRows, row_rank + half * kTileRows,
                    column_bound, column_rank, largest, gap, worker);
      }
    }
  }

  template <class F>
  void filter_tile(int64_t i, int64_t t, int rows, bool diagonal, const F* row_bound,
                   const int32_t* row_rank, const F* column_bound, const int32_t* column_rank,
                   float largest_column, const std::vector<F>& gap, Worker& worker) {
    const int64_t columns = t * kTileColumns;
    alignas(64) int32_t dots[kTileRows * kTileColumns];
    alignas(64) T keys[kTileRows * kTileColumns];
    uint64_t masks[kTileRows];
    TileSides sides;
    // Where the filter has not filtered for a while, it is asked only now and then.
    const bool ask = !coded_ || diagonal || worker.counting || worker.streak < kLongStreak ||
                     worker.streak % kLongStreak == 0;
    if (coded_ && ask) {
      sides = line_.tile_sides(i, rows, largest_column);
      line_.dot(i, line_, t, dots);
    }
    if (!coded_) line_.panel_keys(i, line_, t, cloud_.term, keys);

    const auto test = [&](const F* of_rows, const F* of_columns, int count, int from) {
      if (!coded_) {
        return table_.hits(keys + from * kTileColumns, reinterpret_cast<const T*>(of_rows),
                           reinterpret_cast<const T*>(of_columns), count, masks + from);
      }
      TileBounds b = line_.tile_bounds(sides, t);
      b.row_scale += from;
      b.row_low += from;
      b.row_bound = reinterpret_cast<const float*>(of_rows);
      b.column_bound = reinterpret_cast<const float*>(of_columns);
      return filter_.survivors(dots + from * kTileColumns, b, count, masks + from);
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
          if (q > i + r && q < m_) running = std::max(running, gap[q]);
          own[j] = q > i + r && q < m_ ? running : none;
        }
        count += test(&none, own, 1, r);
      }
    }
    if (worker.counting) {
      worker.tested += rows * kTileColumns;
      worker.hits += count;
      return;
    }
    if (count == 0) {
      worker.streak = 0;
      worker.flush();
      return;
    }
    if (coded_) worker.flush();
    const bool whole = coded_ && count > kDenseHits;
    worker.streak = whole ? worker.streak + 1 : 0;
    if (whole) {
      const T* a[kTileRows];
      const T* b[kTileColumns];
      for (int64_t r = 0; r < kTileRows; ++r) a[r] = row(std::min(i + r, m_ - 1));
      for (int64_t j = 0; j < kTileColumns; ++j) b[j] = row(std::min(columns + j, m_ - 1));
      table_.rectangle(a, b, stride_, cloud_.term, keys);
      if (!diagonal) {
        alignas(64) T row_key[kTileRows], column_key[kTileColumns];
        for (int r = 0; r < rows; ++r) row_key[r] = height_[row_rank[r]];
        for (int j = 0; j < kTileColumns; ++j) column_key[j] = height_[column_rank[j]];
        table_.hits(keys, row_key, column_key, rows, masks);
      }
    }
    const int64_t valid_columns = std::min(m_ - columns, kTileColumns);
    const uint64_t valid = (uint64_t{1} << valid_columns) - 1;
    for (int r = 0; r < rows; ++r) masks[r] &= valid;
    for (int r = 0; r < rows; ++r) {
      if (masks[r] == 0) continue;
      if (diagonal) {
        int32_t running = 0;
        for (int64_t j = 0; j < kTileColumns; ++j) {
          const int64_t q = columns + j;
          if (q > i + r && q < m_) running = std::max(running, rank_[q]);
          diagonal_rank[j] = running;
        }
      }
      for (uint64_t mask = masks[r]; mask; mask &= mask - 1) {
        const int j = __builtin_ctzll(mask);
        const int32_t rank = diagonal ? diagonal_rank[j] : std::max(row_rank[r], column_rank[j]);
        if (coded_ && !whole) {
          worker.add(i + r, columns + j, rank);
        } else {
          const Link<T> l = link(keys[r * kTileColumns + j], i + r, columns + j);
          if (within(l, rank)) worker.collector.add(l);
        }
      }
    }
  }

  // The tree among the contenders, by exact keys.
  void finish(const Links& contenders, std::vector<Edge<double>>& tree) {
    std::vector<Edge<double>> edges(contenders.size());
    constexpr int64_t kGrain = 256;
    const int64_t count = static_cast<int64_t>(edges.size());
    parallel_for((count + kGrain - 1) / kGrain, threads_, [&](int64_t task, int) {
      for (int64_t k = task * kGrain; k < std::min(count, (task + 1) * kGrain); ++k) {
        const Link<T>& l = contenders[k];
        edges[k] = {exact_key(l.i, l.j), l.i, l.j};
      }
    });
    keep_exact_forest(edges, sets_, m_);
    for (const Edge<double>& e : edges) tree.push_back({e.length, ids_[e.i], ids_[e.j]});
  }

  const LargeCloud<T>& cloud_;
  const int threads_;
  const int64_t stride_;
  const Kernels<T>& table_;
  const Filter& filter_ = filter();
  bool coded_;
  T band_;
  Random random_;

  int64_t m_ = 0;                // different points
  std::vector<int32_t> ids_;     // their numbers, ascending
  std::vector<int32_t> order_;   // by position: number in ids_
  std::vector<Link<T>> forest_;  // that the points are ordered by; sorted
  bool tied_ = false;            // the last wave left many links that only exact keys tell apart
  std::vector<Edge<double>> exact_;  // keys of the forest's edges, if so; then it is sorted by them
  std::vector<T> height_;            // of its edges, as an upper bound
  std::vector<T> gap_;               // by position; see merge_order
  std::vector<int32_t> rank_;
  std::vector<float> frame_gap_;
  UnionFind sets_;

  T largest_ = 0;  // coordinate
  bool lattice_ = false;
  Frame<T> frame_;
  Lineup<T> line_;  // by position
};

}  // namespace

bool filters_by_codes(Term term, int64_t dim) {
  const int wish = overrides().coded;
  return term == Term::kSquared && (wish >= 0 ? wish == 1 : dim >= kCodedDimension);
}

template <class T>
LargeResult large_tree(const LargeCloud<T>& cloud, int threads, LargeScratch<T>& scratch) {
  return Large<T>(cloud, threads, scratch).run();
}

template <class T>
void filter_keeps(const LargeCloud<T>& cloud, double factor, uint8_t* kept) {
  LargeScratch<T> scratch;
  Large<T>(cloud, 1, scratch).keeps(factor, kept);
}

template void filter_keeps(const LargeCloud<float>&, double, uint8_t*);
template void filter_keeps(const LargeCloud<double>&, double, uint8_t*);
template LargeResult large_tree(const LargeCloud<float>&, int, LargeScratch<float>&);
template LargeResult large_tree(const LargeCloud<double>&, int, LargeScratch<double>&);

}  // namespace tsloss
