#include "cpu/large/large.h"

#include <numeric>

#include "cpu/large/distinct.h"
#include "cpu/large/large_points.h"
#include "cpu/large/nearest.h"
#include "cpu/large/tile_filter.h"
#include "cpu/runtime/monitor.h"
#include "cpu/runtime/random.h"
#include "cpu/tree/collector.h"

namespace tsloss {
namespace {

// The sink of one thread's filter: the links that could be in the tree.
template <class T>
class LinkSink {
 public:
  LinkSink(const LargePoints<T>& points, const KnownForest<T>& known)
      : points_(points),
        known_(known),
        collector_(points.cloud.n, points.cloud.dim, points.band,
                   [&points](int32_t i, int32_t j) { return points.exact_key(i, j); }) {}

  const std::vector<Link<T>>& links() const { return collector_.links(); }

  void add(int64_t p, int64_t q, int32_t rank, T key) {
    const Link<T> l = points_.link(key, p, q);
    if (known_.within(points_, l, rank)) collector_.add(l);
  }

  void measure(const std::vector<Candidate>& candidates) {
    const std::vector<int32_t>& id = points_.ordered.order;
    pairs_.clear();
    for (const Candidate& c : candidates) pairs_.push_back({id[c.p], id[c.q]});
    keys_.resize(pairs_.size());
    points_.context.table.pairs(points_.cloud.rows, points_.cloud.term, pairs_.data(),
                                static_cast<int64_t>(pairs_.size()), keys_.data());
    for (size_t k = 0; k < candidates.size(); ++k) {
      add(candidates[k].p, candidates[k].q, candidates[k].rank, keys_[k]);
    }
  }

 private:
  const LargePoints<T>& points_;
  const KnownForest<T>& known_;
  Collector<T> collector_;
  std::vector<Pair> pairs_;
  std::vector<T> keys_;
};

template <class T>
class Large {
 public:
  Large(const LargeCloud<T>& cloud, int threads, LargeScratch<T>& scratch)
      : points_(cloud, threads, scratch),
        context_(points_.context),
        packed_(points_.ordered.packed),
        sets_(0) {
    random_.state = overrides().seed;
  }

  LargeResult run() {
    LargeResult result;
    Monitor::Part part(0, 0.02);
    result.finding = find_duplicates(result.tree);
    if (result.finding.problem != Problem::kNone) return result;
    if (points_.size() == 1) return result;
    points_.choose_band();

    std::vector<int32_t>& order = points_.ordered.order;
    for (size_t k = order.size() - 1; k > 0; --k) std::swap(order[k], order[random_() % (k + 1)]);
    points_.gather();
    if (context_.coded && dense_is_possible() && blurred()) {
      result.filters = false;
      result.tree.clear();
      return result;
    }
    part.set_range(0.02, 0.08);
    std::vector<Link<T>> forest = sample();
    if (!(result.in_range = in_range(forest))) return result;

    part.set_range(0.08, 0.2);
    known_.set(points_, forest, tied_);
    const int64_t wish = overrides().wave_one_in;
    const double hits = wish == 0 ? expected_hits() : 0;
    if (context_.coded && hits > double(points_.size()) / 8 &&
        points_.cloud.dim < kSmallDimension) {
      // Codes cannot distinguish these points, and distances cost little more.
      context_.coded = false;
      points_.choose_band();
      known_.set(points_, forest, tied_);
    }
    if (wish > 0 || hits > kHitsForWave) {
      const auto improve = [&](int64_t one_in) {
        forest = wave(forest, one_in);
        keep_forest(forest, sets_, points_.cloud.n);
        known_.set(points_, forest, tied_);
      };
      // A sample no better than chance lets whole tiles through, so the first wave takes few tiles.
      if (hits > double(points_.size()) / 8) improve(wish > 0 ? wish : kFirstWaveOneIn);
      improve(wish > 0 ? wish : kWaveOneIn);
    }
    part.set_range(0.2, 1);
    forest = wave(forest, 1);
    finish(forest, result.tree);
    return result;
  }

 private:
  using Links = std::vector<Link<T>>;
  using Tile = typename TileFilter<T>::Tile;

  // Joins identical points in `tree`, and checks every point when it is loaded.
  Finding find_duplicates(std::vector<Edge<double>>& tree) {
    const auto load = [&](int64_t i, T* x) {
      if (!context_.coded) return points_.cloud.load(i, x);
      const bool finite = context_.table.copy_row(points_.cloud.rows[i], context_.stride, x);
      return finite ? Problem::kNone : Problem::kNonFinite;
    };
    Distinct<T> distinct =
        find_distinct<T>(points_.cloud.n, context_.stride, context_.threads, load, tree);
    context_.lattice = distinct.lattice;
    context_.largest = distinct.largest;
    points_.ordered.order = std::move(distinct.ids);
    return distinct.finding;
  }

  // ---- the first forest ----

  // A spanning tree to filter by. Approximate distances in some of the tiles give each point a few
  // near neighbours; the tree is the minimum spanning forest of those pairs plus bridges between
  // its components. Any spanning tree is right, but one with shorter edges filters better.
  Links sample() {
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
    std::vector<Links> found(static_cast<size_t>(context_.threads));
    find_near(context_, packed_, packed_, chooser, [&](int slot, int64_t p, int64_t q, float near) {
      found[slot].push_back(points_.link(T(near), p, q));
    });
    Links links;
    for (Links& part : found) links.insert(links.end(), part.begin(), part.end());
    Links scratch;
    sort_by_key(links, scratch);
    keep_forest(links, sets_, points_.cloud.n);
    points_.evaluate(links);
    connect(links);
    std::sort(links.begin(), links.end());
    return links;
  }

  // Joins the components of a forest: by a minimum spanning tree of one point of each if there are
  // few components, otherwise by a path.
  void connect(Links& forest) {
    sets_.reset(points_.cloud.n);
    for (const Link<T>& l : forest) sets_.unite(sets_.find(l.i), sets_.find(l.j));
    std::vector<int32_t> roots;
    for (const int32_t v : points_.ordered.order) {
      if (sets_.find(v) == v) roots.push_back(v);
    }
    std::sort(roots.begin(), roots.end());
    constexpr size_t kFew = 256;
    Links bridges;
    for (size_t a = 0; a + 1 < roots.size(); ++a) {
      for (size_t b = a + 1; b < (roots.size() <= kFew ? roots.size() : a + 2); ++b) {
        bridges.push_back({T{0}, roots[a], roots[b]});
      }
    }
    points_.evaluate(bridges);
    Links scratch;
    sort_by_key(bridges, scratch);
    keep_forest(bridges, sets_, points_.cloud.n);
    forest.insert(forest.end(), bridges.begin(), bridges.end());
  }

  bool in_range(const Links& forest) const {
    return std::all_of(forest.begin(), forest.end(), [&](const Link<T>& l) {
      return l.key >= underflow_limit<T>(context_.stride) &&
             l.key < std::numeric_limits<T>::infinity();
    });
  }

  // ---- filter and repair ----

  // Whether the dense path's N^2 keys take little memory.
  bool dense_is_possible() const {
    return overrides().path != Path::kLarge && points_.size() > points_.cloud.n / 2 &&
           (points_.cloud.n <= kFewPoints || points_.cloud.n <= 2 * points_.cloud.dim);
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
    TileFilter<T> filter(context_, points_.ordered, points_.ordered);
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

  // Filters one in `one_in` of the tiles. Returns the contenders: the links of those tiles and of
  // the forest that could be in the tree.
  Links wave(const Links& forest, int64_t one_in) {
    const uint64_t seed = random_();
    Links links;
    if (one_in > 1) links = forest;
    filter_pairs(
        context_, points_.ordered, points_.ordered, [&] { return LinkSink<T>(points_, known_); },
        [&](int64_t t) {
          // The panels at the diagonal are always filtered.
          return [=, random = Random{seed + uint64_t(t)}](const Tile& panel) mutable {
            return one_in == 1 || panel.each || random() % uint64_t(one_in) == 0;
          };
        },
        [&](const LinkSink<T>& sink) {
          links.insert(links.end(), sink.links().begin(), sink.links().end());
        });
    if (context_.lattice) {
      keep_exact_forest(links, sets_, points_.cloud.n);
      return links;
    }
    Links scratch;
    sort_by_key(links, scratch);
    keep_contenders(links, sets_, points_.cloud.n, points_.band);
    tied_ = static_cast<int64_t>(links.size()) > 2 * points_.size();
    return links;
  }

  // Finds the tree among the contenders by their exact keys.
  void finish(const Links& contenders, std::vector<Edge<double>>& tree) {
    std::vector<Edge<double>> edges(contenders.size());
    constexpr int64_t kGrain = 256;
    const int64_t count = static_cast<int64_t>(edges.size());
    parallel_for((count + kGrain - 1) / kGrain, context_.threads, [&](int64_t task, int) {
      for (int64_t k = task * kGrain; k < std::min(count, (task + 1) * kGrain); ++k) {
        const Link<T>& l = contenders[k];
        edges[k] = {points_.exact_key(l.i, l.j), l.i, l.j};
      }
    });
    keep_exact_forest(edges, sets_, points_.cloud.n);
    if (static_cast<int64_t>(edges.size()) + 1 < points_.size()) {
      // Contenders span the points unless another thread writes to these during the call: then a
      // key may have left the bound that it once was. The forest of the bounds always spans them.
      for (const Link<T>& l : known_.links) {
        edges.push_back({points_.exact_key(l.i, l.j), l.i, l.j});
      }
      keep_exact_forest(edges, sets_, points_.cloud.n);
    }
    tree.insert(tree.end(), edges.begin(), edges.end());
  }

  LargePoints<T> points_;
  FilterContext<T>& context_;
  const PackedRows<T>& packed_;
  KnownForest<T> known_;
  Random random_;
  bool tied_ = false;  // the last wave left many links that only exact keys tell apart
  UnionFind sets_;
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

template LargeResult large_tree(const LargeCloud<float>&, int, LargeScratch<float>&);
template LargeResult large_tree(const LargeCloud<double>&, int, LargeScratch<double>&);

}  // namespace tsloss
