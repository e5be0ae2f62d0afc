#include "cpu/large.h"

#include <array>
#include <cmath>
#include <memory>
#include <mutex>
#include <numeric>
#include <unordered_map>

#include "cpu/collector.h"
#include "cpu/forest.h"
#include "cpu/monitor.h"
#include "cpu/thread_pool.h"
#include "cpu/tuning.h"

namespace tsloss {
namespace {

// Covers the rounding of norms and of the filter's few operations; see codes.inl.
constexpr float kSlack = 1.0f / (1 << 17);
// Squares of numbers below 1e-19 vanish in float; the cloud is scaled to about 1.
constexpr float kTinyNorm = 1e-18f;
constexpr float kTinySquare = 1e-34f;
constexpr int64_t kRowCandidates = 4;
constexpr int64_t kColumnCandidates = 4;
constexpr int64_t kGatherGrain = kTileColumns;
constexpr int64_t kLongStreak = 16;

struct Random {  // SplitMix64 (Steele, Lea and Flood, 2014)
  uint64_t state;
  uint64_t operator()() {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
};

// Folds the two halves of a 128-bit product: every bit of a word reaches every bit of the hash, as
// signs, the top bits of numbers, have to.
uint64_t hash_row(const void* row, int64_t bytes) {
  const char* at = static_cast<const char*>(row);
  uint64_t h[4] = {1, 2, 3, 4};
  for (int64_t k = 0; k + 32 <= bytes; k += 32) {
    for (int l = 0; l < 4; ++l) {
      uint64_t word;
      std::memcpy(&word, at + k + 8 * l, 8);
      const unsigned __int128 product = (unsigned __int128)(h[l] ^ word) * 0x9e3779b97f4a7c15u;
      h[l] = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64) ^ word;
    }
  }
  return Random{h[0] + 3 * h[1] + 5 * h[2] + 7 * h[3]}();
}

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
        panels_(scratch.panels),
        code_rows_(scratch.code_rows),
        code_columns_(scratch.code_columns) {
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
      for (int64_t t = 0; t < blocks(); ++t) {
        alignas(64) int32_t dots[kTileRows * kTileColumns];
        dot(i, t, dots);
        const TileSides sides = tile_sides(i, rows, largest_norm(t));
        for (int r = 0; r < rows; ++r) {
          alignas(64) float bound[kTileColumns];
          const float none = -std::numeric_limits<float>::infinity();
          std::fill_n(bound, kTileColumns, none);
          const int64_t end = std::min(m_ - t * kTileColumns, kTileColumns);
          for (int64_t j = 0; j < end; ++j) {
            const int32_t q = static_cast<int32_t>(t * kTileColumns + j);
            bound[j] =
                frame_bound(static_cast<T>(exact_key(static_cast<int32_t>(i + r), q) * factor));
          }
          uint64_t mask;
          TileBounds b = tile_bounds(sides, t);
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
    ids_.resize(static_cast<size_t>(cloud_.n));
    std::iota(ids_.begin(), ids_.end(), 0);
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

  int64_t panels() const { return round_up(m_, kTileColumns) / kPanel; }
  int64_t blocks() const { return panels() / kTilePanels; }
  int64_t padded() const { return blocks() * kTileColumns; }
  int32_t id(int64_t position) const { return ids_[order_[position]]; }
  const T* row(int64_t position) const { return cloud_.rows[id(position)]; }

  void choose_band() {
    const int64_t units =
        coded_ ? table_.rounding(stride_)
               : std::max(table_.rounding(stride_), table_.panel_rounding(cloud_.dim));
    band_ = lattice_ ? T{1} : band_of<T>(units, stride_);
  }

  // Copies of a point are joined to the first of them by edges of length 0, which is what the tie
  // rule wants; only the first goes on. Loads and checks every point on the way.
  Finding find_duplicates(std::vector<Edge<double>>& tree) {
    const int64_t n = cloud_.n;
    std::vector<uint64_t> hash(static_cast<size_t>(n));
    FirstBad bad;
    const int64_t tasks = (n + kGatherGrain - 1) / kGatherGrain;
    std::vector<T> largest(static_cast<size_t>(tasks), T{0});
    std::vector<char> lattice(static_cast<size_t>(tasks), 1);
    parallel_for(tasks, threads_, [&](int64_t task, int) {
      Buffer<T> buffer;
      T most = 0;
      T* x = buffer.reserve(stride_);
      for (int64_t i = task * kGatherGrain; i < std::min(n, (task + 1) * kGatherGrain); ++i) {
        if (coded_) {
          std::copy_n(cloud_.rows[i], stride_, x);
          if (!table_.all_finite(x, stride_)) bad.add(Problem::kNonFinite, i);
        } else {
          bad.add(cloud_.load(i, x), i);
        }
#pragma omp simd reduction(max : most)
        for (int64_t k = 0; k < stride_; ++k) {
          x[k] += T{0};  // -0 is 0
          const T size = std::fabs(x[k]);
          most = size > most ? size : most;
        }
        hash[i] = hash_row(x, stride_ * static_cast<int64_t>(sizeof(T)));
        lattice[task] = lattice[task] && is_lattice_row(x, stride_);
      }
      largest[task] = most;
    });
    lattice_ = std::find(lattice.begin(), lattice.end(), 0) == lattice.end();
    largest_ = *std::max_element(largest.begin(), largest.end());
    if (bad.problem != Problem::kNone) return {bad.problem, 0, bad.point, -1};
    std::vector<std::pair<uint64_t, int32_t>> sorted(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) sorted[i] = {hash[i], static_cast<int32_t>(i)};
    std::sort(sorted.begin(), sorted.end());
    std::vector<char> copy(static_cast<size_t>(n), 0);
    Buffer<T> first_buffer, buffer;
    T* first = first_buffer.reserve(stride_);
    T* x = buffer.reserve(stride_);
    for (size_t begin = 0; begin < sorted.size();) {
      size_t end = begin + 1;
      while (end < sorted.size() && sorted[end].first == sorted[begin].first) ++end;
      const size_t next = end;
      // Different points of the same hash take turns at being the first.
      while (end - begin > 1) {
        const int32_t original = sorted[begin].second;
        cloud_.load(original, first);
        size_t others = ++begin;
        for (size_t k = begin; k < end; ++k) {
          const int32_t i = sorted[k].second;
          cloud_.load(i, x);
          if (std::equal(x, x + stride_, first)) {
            copy[i] = 1;
            tree.push_back({0.0, original, i});
          } else {
            sorted[others++] = sorted[k];
          }
        }
        end = others;
      }
      begin = next;
    }
    ids_.erase(std::remove_if(ids_.begin(), ids_.end(), [&](int32_t i) { return copy[i] != 0; }),
               ids_.end());
    return {};
  }

  struct FirstBad {
    std::mutex mutex;
    Problem problem = Problem::kNone;
    int64_t point = -1;
    void add(Problem found, int64_t i) {
      if (found == Problem::kNone) return;
      std::lock_guard<std::mutex> lock(mutex);
      if (problem != Problem::kNone && point <= i) return;
      problem = found;
      point = i;
    }
  };

  // Brings the points into order_: as codes, or as panels.
  void gather() {
    if (coded_) {
      encode_rows();
    } else {
      gather_panels();
    }
  }

  void gather_panels() {
    const int64_t size = cloud_.dim * kPanel;
    T* out = panels_.reserve(std::max<int64_t>(checked_mul(panels(), size), 1));
    parallel_for(panels(), threads_, [&](int64_t panel, int) {
      Buffer<T> buffer;
      T* x = buffer.reserve(kPanel * stride_);
      const int64_t begin = std::min(panel * kPanel, m_ - 1);
      const int64_t count = std::min(kPanel, m_ - begin);
      for (int64_t l = 0; l < count; ++l) cloud_.load(id(begin + l), x + l * stride_);
      table_.pack(Rows<T>{x, stride_, stride_}, count, cloud_.dim, out + panel * size);
    });
  }

  // The frame of the codes: rows less about their mean, scaled by a power of two so that the
  // largest coordinate is about 1. Any frame is right; this one keeps digits.
  void choose_frame() {
    const int64_t count = std::min<int64_t>(m_, 256);  // in random order
    std::vector<double> sum(static_cast<size_t>(stride_), 0.0);
    for (int64_t p = 0; p < count; ++p) {
      for (int64_t k = 0; k < stride_; ++k) sum[k] += double(row(p)[k]) * (1.0 / double(count));
    }
    centre_.assign(sum.begin(), sum.end());
    exponent_ = largest_ > 0 ? -std::ilogb(largest_) - 2 : 0;
  }

  void encode_rows() {
    const Coder& coder = coder_;
    if (centre_.empty()) choose_frame();
    groups_ = stride_ / coder.group;
    const int64_t bytes = padded() * stride_ * coder.code_bytes;
    char* first = code_rows_.reserve(bytes);
    char* second = coder.two_copies ? code_columns_.reserve(bytes) : first;
    columns_ = second;
    // Every product of two codes, summed over the dimension, stays within 32 bits.
    const int largest =
        coder.code_bytes == 1
            ? 127
            : std::min(32767, static_cast<int>(std::sqrt(2147483647.0 / double(stride_))));
    for (Buffer<float>* b : {&scale_, &square_, &low_, &coded_norm_, &residue_})
      b->reserve(padded());
    sum_.reserve(padded());
    const int64_t panel_bytes = kPanel * stride_ * coder.code_bytes;
    parallel_for(blocks(), threads_, [&](int64_t block, int) {
      Buffer<float> buffer;
      float* t = buffer.reserve(stride_);
      for (int64_t p = block * kTileColumns; p < (block + 1) * kTileColumns; ++p) {
        to_frame(row(std::min(p, m_ - 1)), t);
        char* a = first + p / kPanel * panel_bytes;
        char* b = second + p / kPanel * panel_bytes;
        const Coder::Encoded e = coder.encode(t, stride_, largest, p % kPanel, a, b);
        const float norm = float(std::sqrt(e.square));
        scale_.data()[p] = e.scale;
        square_.data()[p] = p < m_ ? float(e.square) : std::numeric_limits<float>::infinity();
        low_.data()[p] = square_.data()[p] * (1 - kSlack);
        coded_norm_.data()[p] = float(std::sqrt(e.coded)) * (1 + kSlack);
        residue_.data()[p] = float(std::sqrt(e.residue)) * (1 + kSlack) + norm * 0x1p-22f +
                             kTinyNorm * std::sqrt(float(stride_));
        sum_.data()[p] = coder.two_copies ? static_cast<int32_t>(-128 * e.sum) : 0;
      }
    });
  }

  void to_frame(const T* x, float* t) const {
    // Within these limits the scaling is exact in T; else it goes by way of double.
    if (std::abs(exponent_) < (sizeof(T) == 4 ? 60 : 500)) {
      const T scale = std::ldexp(T{1}, exponent_);
      for (int64_t k = 0; k < stride_; ++k) t[k] = static_cast<float>((x[k] - centre_[k]) * scale);
    } else {
      for (int64_t k = 0; k < stride_; ++k) {
        const long double d = static_cast<long double>(x[k]) - centre_[k];
        t[k] = static_cast<float>(std::ldexp(d, exponent_));
      }
    }
  }

  // A bound on keys in the frame of the codes, rounded up.
  float frame_bound(T key) const {
    const long double scaled = std::ldexp(static_cast<long double>(key), 2 * exponent_);
    return static_cast<float>(scaled) * (1 + 0x1p-20f) + kTinySquare;
  }

  // ---- the first forest ----

  // Approximate distances in some of the tiles give each point a few near neighbours; the minimum
  // spanning forest of those, with exact keys, and whatever it takes to connect it. Any spanning
  // tree would do: a better one filters better.
  Links sample() {
    const int64_t one_in = overrides().sample_one_in > 0 ? overrides().sample_one_in : kSampleOneIn;
    const uint64_t seed = random_();
    std::vector<Links> found(static_cast<size_t>(threads_));
    std::vector<ColumnMinima> columns(static_cast<size_t>(threads_));
    parallel_for(panels(), threads_, [&](int64_t ip, int slot) {
      if (ip * kPanel >= m_) return;
      sample_row(ip, one_in, Random{seed + uint64_t(ip)}, columns[slot], found[slot]);
    });
    Links links;
    for (Links& part : found) links.insert(links.end(), part.begin(), part.end());
    for (ColumnMinima& part : columns) {
      for (int64_t k = 0; k < part.size; ++k) {
        const int32_t i = part.index.data()[k];
        const int64_t block = k / (kColumnCandidates * kTileColumns);
        const int64_t p = block * kTileColumns + k % kTileColumns;
        if (i < 0 || p >= m_) continue;
        links.push_back(link(T(std::max(part.value.data()[k], 0.0f)), i, p));
      }
    }
    Links scratch;
    sort_by_key(links, scratch);
    keep_forest(links, sets_, m_);
    evaluate(links);
    connect(links);
    std::sort(links.begin(), links.end());
    return links;
  }

  struct ColumnMinima {
    int64_t size = 0;
    Buffer<float> value;
    Buffer<int32_t> index;
  };

  Link<T> link(T key, int64_t p, int64_t q) const {
    const int32_t a = order_[p], b = order_[q];
    return {key, std::min(a, b), std::max(a, b)};
  }

  void sample_row(int64_t ip, int64_t one_in, Random random, ColumnMinima& columns, Links& found) {
    constexpr float kInf = std::numeric_limits<float>::infinity();
    if (columns.size == 0) {
      columns.size = padded() * kColumnCandidates;
      std::fill_n(columns.value.reserve(columns.size), columns.size, kInf);
      std::fill_n(columns.index.reserve(columns.size), columns.size, -1);
    }
    alignas(64) float row_value[kPanel * kPanel];
    alignas(64) int32_t row_index[kPanel * kPanel];
    alignas(64) float near[kTileRows * kTileColumns];
    std::fill_n(row_value, kPanel * kPanel, kInf);
    std::fill_n(row_index, kPanel * kPanel, -1);
    for (int64_t t = ip / kTilePanels; t < blocks(); ++t) {
      // The tiles at the diagonal are always looked at: no point goes without a neighbour.
      const bool chosen = random() % uint64_t(one_in) == 0;
      if (!chosen && ip + 1 < kTilePanels * t) continue;
      const int64_t at = (t * kColumnCandidates + ip % kColumnCandidates) * kTileColumns;
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t i = ip * kPanel + half * kTileRows;
        const int rows = static_cast<int>(std::min(kTileRows, m_ - i));
        if (rows <= 0) break;
        approximate(i, t, rows, near);
        const Minima minima{row_value + half * kTileRows * kPanel,
                            row_index + half * kTileRows * kPanel, columns.value.data() + at,
                            columns.index.data() + at};
        filter_.minima(near, rows, static_cast<int32_t>(i), static_cast<int32_t>(t * kTileColumns),
                       minima);
      }
    }
    for (int64_t r = 0; r < std::min(kPanel, m_ - ip * kPanel); ++r) {
      std::array<std::pair<float, int32_t>, kPanel> best;
      for (int64_t l = 0; l < kPanel; ++l) {
        best[l] = {row_value[r * kPanel + l], row_index[r * kPanel + l]};
      }
      std::partial_sort(best.begin(), best.begin() + kRowCandidates, best.end());
      for (int64_t l = 0; l < kRowCandidates && best[l].second >= 0; ++l) {
        if (best[l].second >= m_) continue;
        found.push_back(link(T(std::max(best[l].first, 0.0f)), ip * kPanel + r, best[l].second));
      }
    }
  }

  // Squared distances of 8 rows from i on to block t, as near as the filter knows them.
  void approximate(int64_t i, int64_t t, int rows, float* near) {
    if (coded_) {
      alignas(64) int32_t dots[kTileRows * kTileColumns];
      dot(i, t, dots);
      float twice[kTileRows];
      for (int64_t r = 0; r < kTileRows; ++r) twice[r] = 2 * scale_.data()[i + r];
      const TileBounds bounds{twice,
                              square_.data() + i,
                              nullptr,
                              scale_.data() + t * kTileColumns,
                              square_.data() + t * kTileColumns,
                              nullptr,
                              0.0f,
                              nullptr};
      filter_.distances(dots, bounds, rows, near);
    } else {
      alignas(64) T keys[kTileRows * kTileColumns];
      panel_keys(i, t, keys);
      for (int64_t k = 0; k < kTileRows * kTileColumns; ++k) near[k] = static_cast<float>(keys[k]);
    }
  }

  void dot(int64_t i, int64_t t, int32_t* dots) const {
    const int64_t panel_bytes = kPanel * stride_ * coder_.code_bytes;
    const int64_t lane_bytes = coder_.group * coder_.code_bytes;
    coder_.dot(code_rows_.data() + i / kPanel * panel_bytes + i % kPanel * lane_bytes,
               columns_ + t * kTilePanels * panel_bytes, groups_, sum_.data() + i, dots);
  }

  void panel_keys(int64_t i, int64_t t, T* keys) const {
    const int64_t size = cloud_.dim * kPanel;
    table_.panel_tile(panels_.data() + i / kPanel * size + i % kPanel,
                      panels_.data() + t * kTilePanels * size, cloud_.dim, cloud_.term, kTilePanels,
                      keys);
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
    gap_.resize(static_cast<size_t>(padded()), T{0});
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
                     [&](T g) { return frame_bound(g); });
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
      approximate(i, t, kTileRows, near);
      for (int64_t r = 0; r < kTileRows; ++r) {
        const float* row = near + r * kTileColumns;
        least[r] = std::max(*std::min_element(row, row + kTileColumns), 0.0f);
      }
      dot(i, t, dots);
      const TileSides sides = tile_sides(i, kTileRows, largest_norm(t));
      TileBounds b = tile_bounds(sides, t);
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
      const int64_t t = std::max(random() % blocks(), random() % blocks());
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
    parallel_for(blocks(), threads_, [&](int64_t task, int slot) {
      if (!workers[slot]) workers[slot] = std::make_unique<Worker>(*this);
      const int64_t t = blocks() - 1 - task;  // the longest first
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
    const float largest = coded_ ? largest_norm(t) : 0;
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

  // What the filter needs to know of 8 rows beside block t, and of block t beside them.
  struct TileSides {
    float twice[kTileRows];
    float row_low[kTileRows];
    float largest_row;
  };

  float largest_norm(int64_t t) const {
    const int64_t begin = t * kTileColumns, end = std::min(m_, begin + kTileColumns);
    return *std::max_element(coded_norm_.data() + begin, coded_norm_.data() + end);
  }

  TileSides tile_sides(int64_t i, int rows, float largest_column) const {
    TileSides s = {};
    float largest = 0;
    for (int r = 0; r < rows; ++r) {
      const int64_t p = i + r;
      largest = std::max(largest, coded_norm_.data()[p] + residue_.data()[p]);
      s.twice[r] = 2 * scale_.data()[p];
      s.row_low[r] = low_.data()[p] - 2 * residue_.data()[p] * largest_column * (1 + kSlack);
    }
    s.largest_row = 2 * largest * (1 + kSlack);
    return s;
  }

  TileBounds tile_bounds(const TileSides& sides, int64_t t) const {
    const int64_t c = t * kTileColumns;
    return {sides.twice,     sides.row_low,       nullptr,           scale_.data() + c,
            low_.data() + c, residue_.data() + c, sides.largest_row, nullptr};
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
      sides = tile_sides(i, rows, largest_column);
      dot(i, t, dots);
    }
    if (!coded_) panel_keys(i, t, keys);

    const auto test = [&](const F* of_rows, const F* of_columns, int count, int from) {
      if (!coded_) {
        return table_.hits(keys + from * kTileColumns, reinterpret_cast<const T*>(of_rows),
                           reinterpret_cast<const T*>(of_columns), count, masks + from);
      }
      TileBounds b = tile_bounds(sides, t);
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
  const Coder& coder_ = coder(stride_);
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

  Buffer<T>& panels_;  // by position, not coded
  T largest_ = 0;      // coordinate
  bool lattice_ = false;
  std::vector<T> centre_;
  int exponent_ = 0;
  int64_t groups_ = 0;
  Buffer<char>& code_rows_;  // by position, coded
  Buffer<char>& code_columns_;
  const char* columns_ = nullptr;
  Buffer<float> scale_, square_, low_, coded_norm_, residue_;
  Buffer<int32_t> sum_;
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
