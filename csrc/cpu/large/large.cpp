#include "cpu/large/large.h"

#include <iterator>
#include <numeric>

#include "cpu/large/distinct.h"
#include "cpu/large/nearest.h"
#include "cpu/large/tile_filter.h"
#include "cpu/runtime/monitor.h"
#include "cpu/runtime/random.h"

namespace tsloss {
namespace {

template <class T>
class Large {
 public:
  Large(const LargeCloud<T>& cloud, int threads, LargeScratch<T>& scratch)
      : cloud_(cloud),
        context_(cloud.dim, cloud.term, cloud.rows.data != nullptr, threads),
        points_(cloud.dim, scratch),
        packed_(points_.packed),
        sets_(0) {
    points_.rows = cloud.rows;
    random_.state = overrides().seed;
  }

  LargeResult run() {
    LargeResult result;
    Monitor::Part part(0, 0.02);
    result.finding = find_duplicates(result.tree);
    if (result.finding.problem != Problem::kNone) return result;
    if (points_.size() == 1) return result;

    std::vector<int32_t>& order = points_.order;
    for (size_t k = order.size() - 1; k > 0; --k) std::swap(order[k], order[random_() % (k + 1)]);
    pack();
    if (context_.coded && dense_is_possible() && blurred()) {
      result.filters = false;
      result.tree.clear();
      return result;
    }
    part.set_range(0.02, 0.08);
    Edges first = sample();
    if (!(result.in_range = in_range(first))) return result;

    part.set_range(0.08, 0.2);
    set_forest(std::move(first));
    const int64_t wish = overrides().wave_one_in;
    const double hits = wish == 0 ? expected_hits() : 0;
    if (context_.coded && hits > double(points_.size()) / 8 && cloud_.dim < kSmallDimension) {
      // Codes cannot distinguish these points, and distances cost little more.
      context_.coded = false;
      set_forest(std::move(context_.forest));
    }
    if (wish > 0 || hits > kHitsForWave) {
      // A sample no better than chance lets whole tiles through, so the first wave takes few tiles.
      if (hits > double(points_.size()) / 8) set_forest(wave(wish > 0 ? wish : kFirstWaveOneIn));
      set_forest(wave(wish > 0 ? wish : kWaveOneIn));
    }
    part.set_range(0.2, 1);
    const Edges last = wave(1);
    result.tree.insert(result.tree.end(), last.begin(), last.end());
    return result;
  }

 private:
  using Edges = std::vector<Edge<double>>;
  using Tile = typename TileFilter<T>::Tile;

  // Packs the points in their current order, as codes or as coordinates.
  void pack() {
    context_.pack(points_, [&](int64_t p, T* x) { cloud_.load(points_.order[p], x); });
  }

  // Puts the points in the order of a forest, which bounds their pairs from now on.
  void set_forest(Edges forest) {
    points_.order = context_.set_forest(std::move(forest), cloud_.n);
    points_.rank = context_.rank;
    points_.position.resize(points_.rank.size());
    std::iota(points_.position.begin(), points_.position.end(), 0);
    pack();
  }

  // Joins identical points in `tree`, and checks every point when it is loaded.
  Finding find_duplicates(Edges& tree) {
    const auto load = [&](int64_t i, T* x) {
      if (!context_.coded) return cloud_.load(i, x);
      const bool finite = context_.table.copy_row(cloud_.rows[i], context_.stride, x);
      return finite ? Problem::kNone : Problem::kNonFinite;
    };
    Distinct<T> distinct =
        find_distinct<T>(cloud_.n, context_.stride, context_.threads, load, tree);
    context_.lattice = distinct.lattice;
    context_.largest = distinct.largest;
    points_.order = std::move(distinct.ids);
    return distinct.finding;
  }

  // ---- the first forest ----

  // A spanning tree to filter by. Approximate distances in some of the tiles give each point a few
  // near neighbours; the tree is the minimum spanning forest of those pairs plus bridges between
  // its components. Any spanning tree is right, but one with shorter edges filters better.
  Edges sample() {
    const int64_t one_in = overrides().sample_one_in > 0 ? overrides().sample_one_in : kSampleOneIn;
    const uint64_t seed = random_();
    const auto chooser = [&](int64_t ip) {
      // Each pair of panels is met once. The tiles at the diagonal are always searched, so that
      // each point has a neighbour.
      return [=, random = Random{seed + uint64_t(ip)}](int64_t t) mutable {
        if (t < ip / kTilePanels) return false;
        return random() % uint64_t(one_in) == 0 || ip + 1 >= kTilePanels * t;
      };
    };
    std::vector<Link<float>> links = find_near(context_, packed_, packed_, chooser), scratch;
    sort_by_key(links, scratch);
    keep_forest(links, sets_, points_.size());
    // Bridges join the components: all pairs of one point of each if there are few components,
    // otherwise a path.
    std::vector<int32_t> roots;
    for (int32_t p = 0; p < points_.size(); ++p) {
      if (sets_.find(p) == p) roots.push_back(p);
    }
    constexpr size_t kFew = 256;
    for (size_t a = 0; a + 1 < roots.size(); ++a) {
      for (size_t b = a + 1; b < (roots.size() <= kFew ? roots.size() : a + 2); ++b) {
        links.push_back({0, roots[a], roots[b]});
      }
    }
    std::vector<Link<double>> exact;
    for (const Link<float>& l : links) exact.push_back({0, l.i, l.j});
    Pairs<T> pairs(context_, points_, points_);
    pairs.measure(exact, context_.threads);
    pairs.keep_exact_forest(exact);
    return pairs.edges(exact);
  }

  bool in_range(const Edges& forest) const {
    return std::all_of(forest.begin(), forest.end(), [&](const Edge<double>& e) {
      return e.length >= double(underflow_limit<T>(context_.stride)) &&
             e.length <= double(std::numeric_limits<T>::max());
    });
  }

  // ---- filter and repair ----

  // Whether the dense path's N^2 keys take little memory.
  bool dense_is_possible() const {
    return overrides().path != Path::kLarge && points_.size() > cloud_.n / 2 &&
           (cloud_.n <= kFewPoints || cloud_.n <= 2 * cloud_.dim);
  }

  // Whether the dense path is faster, because the codes cannot distinguish many pairs of a row from
  // its nearest one. Estimated from a few tiles.
  bool blurred() {
    constexpr int kTiles = 16;
    Random random{random_()};
    int64_t tested = 0, found = 0;
    for (int k = 0; k < kTiles; ++k) {
      const int64_t i = random() % uint64_t(points_.size() / kTileRows) * kTileRows;
      const int64_t t = random() % uint64_t(points_.size() / kTileColumns);
      if (i / kTileColumns == t) continue;
      alignas(64) float near[kTileRows * kTileColumns];
      alignas(64) const float none[kTileColumns] = {};
      float least[kTileRows];
      uint64_t masks[kTileRows];
      packed_.approximate(i, packed_, t, kTileRows, near);
      for (int64_t r = 0; r < kTileRows; ++r) {
        const float* row = near + r * kTileColumns;
        least[r] = std::max(*std::min_element(row, row + kTileColumns), 0.0f);
      }
      const typename PackedRows<T>::Codes codes(packed_, i, kTileRows, packed_, t,
                                                packed_.largest_norm(t));
      found += codes.survivors(0, kTileRows, least, none, masks);
      tested += kTileRows * kTileColumns;
    }
    return double(found) >
           (points_.size() <= kFewPoints ? kBlurredFew : kBlurredMany) * double(tested);
  }

  // Number of pairs for each point that would pass the filter, estimated from a few tiles.
  double expected_hits() {
    const int64_t kBlocks = points_.size() < 4096 ? 4 : 8, kTiles = kBlocks;
    Random random{random_()};
    TileFilter<T> filter(context_, points_, points_);
    int64_t tested = 0, hits = 0;
    for (int64_t k = 0; k < kBlocks; ++k) {
      // Blocks are drawn by their number of tiles: the later one of two.
      const int64_t t = std::max(random() % packed_.blocks(), random() % packed_.blocks());
      const int64_t one_in = std::max<int64_t>(2, t * kTilePanels / kTiles);
      Random draw = random;
      filter.for_each_panel(t, [&](const Tile& panel) {
        if (panel.each || draw() % uint64_t(one_in) != 0) return;
        tested += panel.rows * kTileColumns;
        hits += filter.count(panel);
      });
      random();
    }
    return tested == 0 ? 0 : double(hits) / double(tested) * double(points_.size()) / 2;
  }

  // Filters one in `one_in` of the tiles. Returns the minimum spanning tree of what they hold and
  // of the forest. It spans the points even if another thread writes to these during the call.
  Edges wave(int64_t one_in) {
    const uint64_t seed = random_();
    const Found found = filter_pairs(context_, points_, points_, [&](int64_t t) {
      // The panels at the diagonal are always filtered.
      return [=, random = Random{seed + uint64_t(t)}](const Tile& panel) mutable {
        return one_in == 1 || panel.each || random() % uint64_t(one_in) == 0;
      };
    });
    Edges edges;
    std::merge(found.edges.begin(), found.edges.end(), context_.forest.begin(),
               context_.forest.end(), std::back_inserter(edges));
    keep_forest(edges, sets_, cloud_.n);
    return edges;
  }

  const LargeCloud<T>& cloud_;
  FilterContext<T> context_;
  OrderedPoints<T> points_;  // the different points; places are positions
  const PackedRows<T>& packed_;
  Random random_;
  UnionFind sets_;
};

}  // namespace

template <class T>
LargeResult large_tree(const LargeCloud<T>& cloud, int threads, LargeScratch<T>& scratch) {
  return Large<T>(cloud, threads, scratch).run();
}

template LargeResult large_tree(const LargeCloud<float>&, int, LargeScratch<float>&);
template LargeResult large_tree(const LargeCloud<double>&, int, LargeScratch<double>&);

}  // namespace tsloss
