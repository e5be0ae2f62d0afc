#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>

#include "cpu/large/nearest.h"
#include "cpu/large/tile_filter.h"
#include "cpu/shards/shards.h"

namespace tsloss {
namespace {

// The points of one slot of the filter.
template <class T>
struct Block {
  explicit Block(int64_t dim) : points(dim, scratch) {}

  typename PackedRows<T>::Scratch scratch;
  OrderedPoints<T> points;
};

template <class T>
class Shards final : public ShardFilter {
 public:
  explicit Shards(const ShardCloud& cloud)
      : context_(cloud.dim, cloud.term, !cloud.robust && filters_by_codes(cloud.term, cloud.dim),
                 cloud.threads) {
    context_.robust = cloud.robust;
    context_.lattice = cloud.lattice;
    context_.largest = static_cast<T>(cloud.largest);
  }

  void set_forest(int64_t n, const double* keys, const int64_t* ends) override {
    std::vector<Edge<double>> edges;
    for (int64_t k = 0; k + 1 < n; ++k) edges.push_back({keys[k], ends[2 * k], ends[2 * k + 1]});
    const std::vector<int32_t> order = context_.set_forest(std::move(edges), n);
    position_.resize(order.size());
    for (int64_t p = 0; p < n; ++p) position_[order[p]] = static_cast<int32_t>(p);
    blocks_.clear();
  }

  void load(int64_t slot, const void* rows, const int64_t* ids, int64_t count) override {
    OrderedPoints<T>& points = blocks_.try_emplace(slot, context_.dim).first->second.points;
    points.rows = {static_cast<const T*>(rows), context_.stride, context_.stride};
    points.ids = ids;
    points.order.resize(static_cast<size_t>(count));
    std::iota(points.order.begin(), points.order.end(), 0);
    place(points);
    if (count == 0 || context_.robust) return;
    context_.pack(points, [&](int64_t p, T* x) { std::copy_n(points.row(p), context_.stride, x); });
  }

  void near(int64_t slot_a, int64_t slot_b) override {
    const OrderedPoints<T>&a = blocks_.at(slot_a).points, &b = blocks_.at(slot_b).points;
    result_.clear();
    if (a.size() == 0 || b.size() == 0) return;
    Pairs<T> pairs(context_, a, b);
    std::vector<Link<double>> links;
    const auto join = [&](int64_t p, int64_t q) {
      links.push_back({0, static_cast<int32_t>(p), static_cast<int32_t>(pairs.shift() + q)});
    };
    if (context_.robust) {  // This is rare, so edges to the first point of each block do.
      for (int64_t q = 0; q < b.size(); ++q) join(0, q);
    } else {
      const auto all_blocks = [](int64_t) { return [](int64_t) { return true; }; };
      for (const Link<float>& l : find_near(context_, a.packed, b.packed, all_blocks)) {
        links.push_back({0, l.i, l.j});
      }
    }
    const auto same_point = [&](const Link<double>& l) {  // in both blocks
      return a.id(l.i) == b.id(l.j - pairs.shift());
    };
    links.erase(std::remove_if(links.begin(), links.end(), same_point), links.end());
    // A point without a finite distance has no near neighbour, and gets an edge to the first point.
    std::vector<char> joined(static_cast<size_t>(a.size()), 0);
    for (const Link<double>& l : links) joined[l.i] = 1;
    for (int64_t p = 0; p < a.size(); ++p) {
      if (!joined[p] && a.id(p) != b.id(0)) join(p, 0);
    }
    pairs.measure(links, context_.threads);
    pairs.keep_exact_forest(links);
    result_ = pairs.edges(links);
  }

  void between(int64_t slot_a, int64_t slot_b) override {
    const OrderedPoints<T>&a = blocks_.at(slot_a).points, &b = blocks_.at(slot_b).points;
    for (const OrderedPoints<T>* points : {&a, &b}) {
      if (points->position.size() != points->order.size()) {
        throw std::logic_error("a block was loaded before the forest was set");
      }
    }
    result_.clear();
    if (a.size() == 0 || b.size() == 0) return;
    Found found = filter_pairs(context_, a, b, [](int64_t) {
      return [](const typename TileFilter<T>::Tile&) { return true; };
    });
    result_ = std::move(found.edges);
    lost_digits_ = lost_digits_ || found.lost_digits;
  }

 private:
  // Puts the points of a block in the order of the forest, if there is one.
  void place(OrderedPoints<T>& points) const {
    points.position.clear();
    if (position_.empty()) return;
    const auto at = [&](int32_t index) { return position_[points.ids[index]]; };
    std::sort(points.order.begin(), points.order.end(),
              [&](int32_t x, int32_t y) { return at(x) < at(y); });
    for (const int32_t index : points.order) points.position.push_back(at(index));
    points.rank.assign(points.order.size(), 0);
    for (int64_t p = 1; p < points.size(); ++p) {
      points.rank[p] = context_.largest_rank(points.position[p - 1], points.position[p]);
    }
  }

  FilterContext<T> context_;
  std::vector<int32_t> position_;  // by number of the point
  std::map<int64_t, Block<T>> blocks_;
};

}  // namespace

std::unique_ptr<ShardFilter> make_shard_filter(Dtype dtype, const ShardCloud& cloud) {
  if (dtype == Dtype::kFloat64) return std::make_unique<Shards<double>>(cloud);
  return std::make_unique<Shards<float>>(cloud);
}

}  // namespace tsloss
