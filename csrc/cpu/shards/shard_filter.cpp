#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>

#include "cpu/large/large.h"
#include "cpu/large/nearest.h"
#include "cpu/large/tile_filter.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/shards/shards.h"
#include "cpu/tree/collector.h"
#include "cpu/tree/forest.h"

namespace tsloss {
namespace {

// An edge between points i, j of the cloud, which are points a, b of the two blocks at hand. The
// points of the second block are numbered after those of the first, unless both are the same.
struct Found : Edge<double> {
  int32_t a;
  int32_t b;
};

// Keeps the edges of the minimum spanning forest. Their a, b are below n.
void keep_found_forest(std::vector<Found>& found, UnionFind& sets, int64_t n) {
  std::sort(found.begin(), found.end());
  keep_forest(found, sets, n, &Found::a, &Found::b);
}

// The points of one slot of the filter.
template <class T>
struct Block {
  explicit Block(int64_t dim) : points(dim, scratch) {}

  typename PackedRows<T>::Scratch scratch;
  OrderedPoints<T> points;
  const int64_t* ids = nullptr;

  int64_t size() const { return points.size(); }
  int64_t id(int64_t place) const { return ids[points.order[place]]; }
};

// The state that all blocks of a cloud share: how keys are computed, and the forest.
template <class T>
struct ShardForest {
  explicit ShardForest(const ShardCloud& cloud)
      : cloud(cloud),
        context(cloud.dim, cloud.term, !cloud.robust && filters_by_codes(cloud.term, cloud.dim),
                cloud.threads) {
    context.robust = cloud.robust;
    context.lattice = cloud.lattice;
    context.largest = static_cast<T>(cloud.largest);
  }

  const ShardCloud cloud;
  FilterContext<T> context;
  std::vector<Edge<double>> edges;  // by rank
  std::vector<int32_t> position;    // by number of the point

  void set(int64_t n, const double* keys, const int64_t* ends) {
    edges.clear();
    for (int64_t k = 0; k + 1 < n; ++k) edges.push_back({keys[k], ends[2 * k], ends[2 * k + 1]});
    // A square that has lost digits must not rule out others that have, since all of these must be
    // noticed.
    const double least = cloud.term == Term::kSquared ? double(underflow_limit<T>(cloud.dim)) : 0;
    const T band = band_of_filter<T>(context.coded, cloud.lattice, cloud.dim);
    const auto height_of = [&](const Edge<double>& e) {
      return static_cast<T>(std::max(e.length, least)) * band;
    };
    std::vector<int32_t> order;
    context.set_forest(edges, n, height_of, order);
    position.resize(order.size());
    for (int64_t p = 0; p < n; ++p) position[order[p]] = static_cast<int32_t>(p);
  }

  // Puts the points of a block in the order of the forest, if there is one.
  void place(Block<T>& block) const {
    OrderedPoints<T>& points = block.points;
    points.position.clear();
    if (position.empty()) return;
    const auto at = [&](int32_t index) { return position[block.ids[index]]; };
    std::sort(points.order.begin(), points.order.end(),
              [&](int32_t x, int32_t y) { return at(x) < at(y); });
    for (const int32_t index : points.order) points.position.push_back(at(index));
    points.rank.assign(points.order.size(), 0);
    for (int64_t p = 1; p < points.size(); ++p) {
      points.rank[p] = context.largest_rank(points.position[p - 1], points.position[p]);
    }
  }

  double exact_key(const Block<T>& a, const Block<T>& b, int64_t p, int64_t q) const {
    return key_of(a.points.row(p), b.points.row(q), context.stride, cloud.term, cloud.robust);
  }

  Found edge(const Block<T>& a, const Block<T>& b, int64_t p, int64_t q, double key) const {
    const int64_t i = a.id(p), j = b.id(q);
    const int32_t offset = &a == &b ? 0 : static_cast<int32_t>(a.size());
    return {{key, std::min(i, j), std::max(i, j)}, a.points.order[p], offset + b.points.order[q]};
  }
};

// The sink of one thread's filter: the edges between blocks a and b, which may be the same, that
// could be in the tree. Every pair gets its exact key at once.
template <class T>
class EdgeSink {
 public:
  EdgeSink(const ShardForest<T>& shared, const Block<T>& a, const Block<T>& b)
      : shared_(shared),
        a_(a),
        b_(b),
        points_(a.size() + b.size()),
        limit_(collector_limit(points_, shared.cloud.dim)),
        sets_(0) {}

  const std::vector<Found>& found() const { return found_; }
  bool lost_digits() const { return lost_digits_; }

  void add(int64_t p, int64_t q, int32_t rank, T key) {
    add_exact(p, q, rank, shared_.cloud.lattice ? double(key) : shared_.exact_key(a_, b_, p, q));
  }

  void measure(const std::vector<Candidate>& candidates) {
    for (const Candidate& c : candidates) {
      add_exact(c.p, c.q, c.rank, shared_.exact_key(a_, b_, c.p, c.q));
    }
  }

 private:
  void add_exact(int64_t p, int64_t q, int32_t rank, double key) {
    if (key == 0) {
      const T* x = a_.points.row(p);
      if (!std::equal(x, x + shared_.context.stride, b_.points.row(q))) lost_digits_ = true;
    }
    const Found f = shared_.edge(a_, b_, p, q, key);
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
  bool lost_digits_ = false;
};

template <class T>
class Shards final : public ShardFilter {
 public:
  explicit Shards(const ShardCloud& cloud) : forest_(cloud) {}

  void set_forest(int64_t n, const double* keys, const int64_t* edges) override {
    forest_.set(n, keys, edges);
    blocks_.clear();
  }

  void load(int64_t slot, const void* rows, const int64_t* ids, int64_t count) override {
    FilterContext<T>& context = forest_.context;
    Block<T>& block = blocks_.try_emplace(slot, context.dim).first->second;
    OrderedPoints<T>& points = block.points;
    points.rows = {static_cast<const T*>(rows), context.stride, context.stride};
    block.ids = ids;
    points.order.resize(static_cast<size_t>(count));
    std::iota(points.order.begin(), points.order.end(), 0);
    forest_.place(block);
    if (count == 0 || forest_.cloud.robust) return;
    context.pack(points, [&](int64_t p, T* x) { std::copy_n(points.row(p), context.stride, x); });
  }

  void near(int64_t slot_a, int64_t slot_b) override {
    const Block<T>&a = blocks_.at(slot_a), &b = blocks_.at(slot_b);
    std::vector<Found> all;
    if (a.size() == 0 || b.size() == 0) return give(all);
    if (forest_.cloud.robust) {  // This is rare, so edges to the first point of each block do.
      for (int64_t p = 0; p < a.size(); ++p) add_near(a, b, p, 0, all);
      for (int64_t q = 1; q < b.size(); ++q) add_near(a, b, 0, q, all);
    } else {
      std::vector<std::vector<Found>> found(static_cast<size_t>(forest_.cloud.threads));
      const auto all_blocks = [](int64_t) { return [](int64_t) { return true; }; };
      find_near(forest_.context, a.points.packed, b.points.packed, all_blocks,
                [&](int slot, int64_t p, int64_t q, float) { add_near(a, b, p, q, found[slot]); });
      for (const auto& part : found) all.insert(all.end(), part.begin(), part.end());
    }
    // A point without a finite distance has no near neighbour, and gets an edge to the first point.
    std::vector<char> joined(static_cast<size_t>(a.size()), 0);
    for (const Found& f : all) joined[f.a] = 1;
    for (int64_t p = 0; p < a.size(); ++p) {
      if (!joined[a.points.order[p]]) add_near(a, b, p, 0, all);
    }
    UnionFind sets(0);
    keep_found_forest(all, sets, a.size() + b.size());
    return give(all);
  }

  void between(int64_t slot_a, int64_t slot_b) override {
    const Block<T>&a = blocks_.at(slot_a), &b = blocks_.at(slot_b);
    for (const Block<T>* block : {&a, &b}) {
      if (block->points.position.size() != block->points.order.size()) {
        throw std::logic_error("a block was loaded before the forest was set");
      }
    }
    std::vector<Found> all;
    if (a.size() == 0 || b.size() == 0) return give(all);
    filter_pairs(
        forest_.context, a.points, b.points, [&] { return EdgeSink<T>(forest_, a, b); },
        [](int64_t) { return [](const typename TileFilter<T>::Tile&) { return true; }; },
        [&](const EdgeSink<T>& sink) {
          all.insert(all.end(), sink.found().begin(), sink.found().end());
          lost_digits_ = lost_digits_ || sink.lost_digits();
        });
    UnionFind sets(0);
    keep_found_forest(all, sets, &a == &b ? a.size() : a.size() + b.size());
    return give(all);
  }

 private:
  void give(const std::vector<Found>& found) { result_.assign(found.begin(), found.end()); }

  void add_near(const Block<T>& a, const Block<T>& b, int64_t p, int64_t q,
                std::vector<Found>& found) const {
    if (a.id(p) == b.id(q)) return;  // the same point in both blocks
    found.push_back(forest_.edge(a, b, p, q, forest_.exact_key(a, b, p, q)));
  }

  ShardForest<T> forest_;
  std::map<int64_t, Block<T>> blocks_;
};

}  // namespace

std::unique_ptr<ShardFilter> make_shard_filter(Dtype dtype, const ShardCloud& cloud) {
  if (dtype == Dtype::kFloat64) return std::make_unique<Shards<double>>(cloud);
  return std::make_unique<Shards<float>>(cloud);
}

}  // namespace tsloss
