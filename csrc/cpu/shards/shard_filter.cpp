#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>

#include "cpu/large/nearest.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/shards/shard_forest.h"
#include "cpu/shards/shard_pairs.h"
#include "cpu/shards/shards.h"

namespace tsloss {
namespace {

template <class T>
class Shards final : public ShardFilter {
 public:
  explicit Shards(const ShardCloud& cloud) : forest_(cloud) {}

  void set_forest(int64_t n, const double* keys, const int64_t* edges) override {
    forest_.set(n, keys, edges);
    blocks_.clear();
  }

  void load(int64_t slot, const void* rows, const int64_t* ids, int64_t count) override {
    Block<T>& block = blocks_.try_emplace(slot, forest_.cloud.dim).first->second;
    block.rows = {static_cast<const T*>(rows), forest_.stride, forest_.stride};
    block.ids = ids;
    block.order.resize(static_cast<size_t>(count));
    std::iota(block.order.begin(), block.order.end(), 0);
    block.position.clear();
    if (!forest_.position.empty()) forest_.place(block);
    if (count == 0 || forest_.cloud.robust) return;
    if (!forest_.coded) {
      const auto copy = [&](int64_t p, T* x) { std::copy_n(block.row(p), forest_.stride, x); };
      return block.packed.pack(count, forest_.cloud.threads, copy);
    }
    if (!forest_.scaling.chosen()) {
      forest_.scaling.choose(std::min<int64_t>(count, 256), forest_.stride,
                             static_cast<T>(forest_.cloud.largest),
                             [&](int64_t p) { return block.row(p); });
    }
    if (forest_.scaled_height.size() != forest_.height.size()) {
      forest_.scaled_height.resize(forest_.height.size());
      std::transform(forest_.height.begin(), forest_.height.end(), forest_.scaled_height.begin(),
                     [&](T h) { return forest_.scaling.bound(h); });
    }
    block.packed.encode(count, forest_.scaling, forest_.cloud.threads,
                        [&](int64_t p) { return block.row(p); });
  }

  void near(int64_t slot_a, int64_t slot_b) override {
    const Block<T>&a = blocks_.at(slot_a), &b = blocks_.at(slot_b);
    std::vector<Found> all;
    if (a.size() == 0 || b.size() == 0) return give(all);
    if (forest_.cloud.robust) {  // rare, so edges to the first point of each block are enough
      for (int64_t p = 0; p < a.size(); ++p) add_near(a, b, p, 0, all);
      for (int64_t q = 1; q < b.size(); ++q) add_near(a, b, 0, q, all);
    } else {
      std::vector<std::vector<Found>> found(static_cast<size_t>(forest_.cloud.threads));
      std::deque<Nearest<T>> searches;
      for (int slot = 0; slot < forest_.cloud.threads; ++slot) {
        searches.emplace_back(a.packed, b.packed, forest_.coded, forest_.cloud.term);
      }
      parallel_for((a.size() + kPanel - 1) / kPanel, forest_.cloud.threads,
                   [&](int64_t ip, int slot) {
                     searches[slot].row(
                         ip, 0, [](int64_t) { return true; },
                         [&](int64_t p, int64_t q, float) { add_near(a, b, p, q, found[slot]); });
                   });
      for (const auto& part : found) all.insert(all.end(), part.begin(), part.end());
      for (const auto& search : searches) {
        search.columns([&](int64_t p, int64_t q, float) { add_near(a, b, p, q, all); });
      }
    }
    // A point without a finite distance has no near neighbour, and gets an edge to the first point.
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
    std::vector<std::unique_ptr<ShardPairs<T>>> workers(static_cast<size_t>(forest_.cloud.threads));
    const int64_t columns = (b.size() + kTileColumns - 1) / kTileColumns;
    parallel_for(columns, forest_.cloud.threads, [&](int64_t task, int slot) {
      if (!workers[slot]) workers[slot] = std::make_unique<ShardPairs<T>>(forest_, a, b);
      workers[slot]->filter_block(columns - 1 - task, same);
    });
    for (auto& worker : workers) {
      if (!worker) continue;
      worker->flush();
      all.insert(all.end(), worker->found().begin(), worker->found().end());
      lost_digits_ = lost_digits_ || worker->lost_digits();
    }
    UnionFind sets(0);
    keep_found_forest(all, sets, same ? a.size() : a.size() + b.size());
    return give(all);
  }

 private:
  void give(const std::vector<Found>& found) { result_.assign(found.begin(), found.end()); }

  void add_near(const Block<T>& a, const Block<T>& b, int64_t p, int64_t q,
                std::vector<Found>& found) const {
    if (a.id(p) == b.id(q)) return;  // the same point in both blocks
    found.push_back(forest_.edge(a, b, p, q, forest_.exact_key(a.row(p), b.row(q))));
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
