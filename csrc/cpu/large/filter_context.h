// Points in the order of a forest, the state that the filters of all their tiles share, and the
// exact keys of their pairs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <limits>
#include <utility>
#include <vector>

#include "cpu/large/packed_rows.h"
#include "cpu/runtime/buffer.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/tree/forest.h"
#include "cpu/tree/tree.h"
#include "cpu/tuning.h"

namespace tsloss {

// Whether the filter works on codes. Otherwise distances are as cheap as any bound of them.
inline bool filters_by_codes(Term term, int64_t dim) {
  const int wish = overrides().coded;
  return term == Term::kSquared && (wish >= 0 ? wish == 1 : dim >= kCodedDimension);
}

// Points in the order of a forest: all different points of a cloud, or a block of them. Place p
// is the p-th of these points; its position counts all points of the cloud.
template <class T>
struct OrderedPoints {
  OrderedPoints(int64_t dim, typename PackedRows<T>::Scratch& scratch) : packed(dim, scratch) {}

  Rows<T> rows{};                 // `data` is null if the points are packed as coordinates only
  const int64_t* ids = nullptr;   // by index: the number in the cloud, or null if it is the index
  std::vector<int32_t> order;     // by place: the index of its row
  std::vector<int32_t> position;  // by place, ascending
  // By place: the largest rank from the previous place's position (exclusive) to this one's.
  std::vector<int32_t> rank;
  PackedRows<T> packed;  // by place

  int64_t size() const { return static_cast<int64_t>(order.size()); }
  const T* row(int64_t place) const { return rows[order[place]]; }
  int64_t id(int64_t place) const { return ids ? ids[order[place]] : order[place]; }
};

// The state that all tiles of a cloud share: how its pairs are measured, and the forest that bounds
// them.
template <class T>
struct FilterContext {
  FilterContext(int64_t dim, Term term, bool coded, int threads)
      : dim(dim),
        stride(round_up(std::max<int64_t>(dim, 1), kLanes)),
        term(term),
        threads(threads),
        table(kernels<T>()),
        coded(coded) {}

  const int64_t dim;
  const int64_t stride;  // numbers in a padded row
  const Term term;
  const int threads;
  const Kernels<T>& table;
  bool coded;            // the filter works on codes, otherwise on coordinates
  bool robust = false;   // squares leave the range of T: lengths replace keys, and no test rules a
                         // pair out
  bool lattice = false;  // fast keys are exact; see is_lattice_row
  T largest = 0;         // the largest |coordinate| of all points
  CentredScaling<T> scaling;
  T band = 1;  // of fast keys, see band_of; 1 if they are exact

  // A spanning tree of all points, ascending. The rank of an edge is its place here. A pair is not
  // in the minimum spanning tree unless it comes before the edge of the largest rank between its
  // positions, which is the last one on the forest's path between its points.
  std::vector<Edge<double>> forest;
  std::vector<int32_t> rank;  // by position; see merge_order
  std::vector<T> height;      // by rank: no pair with a larger fast key comes before the edge
  std::vector<float> scaled_height;  // by rank: the height in the units of the codes

  // Sets the forest of n points, whose edges are ascending. Returns their order by it: order[p] is
  // the point at position p.
  std::vector<int32_t> set_forest(std::vector<Edge<double>> edges, int64_t n) {
    forest = std::move(edges);
    UnionFind sets(0);
    std::vector<int32_t> order;
    merge_order(forest, sets, n, order, rank);
    // The fast key of a pair is that of a panel, or of its rows, or one after the other.
    int64_t units = table.rounding(stride);
    if (!coded) units = std::max(units, table.panel_rounding(dim));
    band = lattice || robust ? T{1} : band_of<T>(units, stride);
    // A square that has lost digits must not rule out others that have, since all of these must be
    // noticed.
    const double least = term == Term::kSquared ? double(underflow_limit<T>(dim)) : 0;
    height.resize(forest.size());
    std::transform(forest.begin(), forest.end(), height.begin(), [&](const Edge<double>& e) {
      if (robust) return std::numeric_limits<T>::infinity();
      return static_cast<T>(std::max(e.length, least)) * band;
    });
    scaled_height.clear();  // pack() fills it
    return order;
  }

  // The rank of the longest edge on the forest's path between two positions, from <= to, or -1 if
  // they are the same.
  int32_t largest_rank(int64_t from, int64_t to) const {
    if (from == to) return -1;
    return *std::max_element(rank.begin() + from + 1, rank.begin() + to + 1);
  }

  // Packs the points in their order, and scales the heights for the codes. load(p, x) writes the
  // point at place p to an aligned and padded row; it is called if the filter works on coordinates.
  template <class Load>
  void pack(OrderedPoints<T>& points, const Load& load) {
    const int64_t count = points.size();
    if (!coded) return points.packed.pack(count, threads, load);
    const auto row = [&](int64_t p) { return points.row(p); };
    // The first 256 points of the first call stand for all: any centre is right, a mean is better.
    if (!scaling.chosen()) scaling.choose(std::min<int64_t>(count, 256), stride, largest, row);
    points.packed.encode(count, scaling, threads, row);
    if (scaled_height.size() == height.size()) return;
    scaled_height.resize(height.size());
    std::transform(height.begin(), height.end(), scaled_height.begin(),
                   [&](T h) { return scaling.bound(h); });
  }
};

// The pairs of rows with columns, which may be the same points. A link (key, i, j) joins the row at
// place i to the column at place j - shift(), so that the ends of all links are numbered together.
template <class T>
class Pairs {
 public:
  using Links = std::vector<Link<double>>;

  Pairs(const FilterContext<T>& context, const OrderedPoints<T>& rows,
        const OrderedPoints<T>& columns)
      : context_(context), rows_(rows), columns_(columns) {}

  int64_t shift() const { return &rows_ == &columns_ ? 0 : rows_.size(); }
  int64_t points() const { return shift() + columns_.size(); }

  // The key that decides: a sum in double, with the same bits on every path.
  double exact_key(int64_t p, int64_t q) const {
    const int64_t stride = context_.stride;
    if (rows_.rows.data) {
      return key_of(rows_.row(p), columns_.row(q), stride, context_.term, context_.robust);
    }
    static thread_local Buffer<T> buffer;
    T* x = buffer.reserve(2 * stride);
    rows_.packed.unpack(p, x);
    columns_.packed.unpack(q, x + stride);
    return context_.table.refine(x, x + stride, stride, context_.term);
  }

  Edge<double> edge(double key, int64_t p, int64_t q) const {
    const int64_t a = rows_.id(p), b = columns_.id(q);
    return {key, std::min(a, b), std::max(a, b)};
  }

  // Keeps the links of the minimum spanning forest. If more than `enough` links have fast keys that
  // do not rule them out, exact keys decide; otherwise all of these are kept.
  void reduce(Links& links, size_t enough, int threads) {
    if (context_.band > 1) {
      sort_by_key(links, scratch_);
      keep_contenders(links, sets_, points(), context_.band);
      if (links.size() <= enough) return;
      measure(links, threads);
    }
    keep_exact_forest(links);
  }

  // Gives the links their exact keys.
  void measure(Links& links, int threads) const {
    constexpr int64_t kGrain = 256;
    const int64_t count = static_cast<int64_t>(links.size());
    parallel_for((count + kGrain - 1) / kGrain, threads, [&](int64_t task, int) {
      for (int64_t k = task * kGrain; k < std::min(count, (task + 1) * kGrain); ++k) {
        links[k].key = exact_key(links[k].i, links[k].j - shift());
      }
    });
  }

  // Keeps the links of the minimum spanning forest, ascending. Their keys are exact, and ties are
  // decided by the numbers of the points in the cloud, which are below 2^31.
  void keep_exact_forest(Links& links) {
    sort_by_key(links, scratch_);
    std::vector<std::pair<int64_t, Link<double>>> tied;
    for (auto begin = links.begin(); begin != links.end();) {
      const auto end = std::find_if(begin, links.end(),
                                    [&](const Link<double>& l) { return l.key != begin->key; });
      if (end - begin > 1) {
        tied.clear();
        std::transform(begin, end, std::back_inserter(tied), [&](const Link<double>& l) {
          const Edge<double> e = edge(l);
          return std::pair(e.i << 32 | e.j, l);
        });
        std::sort(tied.begin(), tied.end(),
                  [](const auto& a, const auto& b) { return a.first < b.first; });
        std::transform(tied.begin(), tied.end(), begin, [](const auto& t) { return t.second; });
      }
      begin = end;
    }
    keep_forest(links, sets_, points());
  }

  std::vector<Edge<double>> edges(const Links& links) const {
    std::vector<Edge<double>> result;
    result.reserve(links.size());
    for (const Link<double>& l : links) result.push_back(edge(l));
    return result;
  }

 private:
  Edge<double> edge(const Link<double>& l) const { return edge(l.key, l.i, l.j - shift()); }

  const FilterContext<T>& context_;
  const OrderedPoints<T>& rows_;
  const OrderedPoints<T>& columns_;
  UnionFind sets_{0};
  Links scratch_;
};

}  // namespace tsloss
