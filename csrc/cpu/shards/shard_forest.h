// Blocks of the points of a sharded cloud, the forest that orders them, and the edges between them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/large/large.h"
#include "cpu/large/packed_rows.h"
#include "cpu/shards/shards.h"
#include "cpu/tree/forest.h"

namespace tsloss {

// An edge between points i, j of the cloud, which are points a, b of the two blocks at hand.
struct Found : Edge<double> {
  int32_t a;
  int32_t b;
};

// Keeps the edges of the minimum spanning forest. Their a, b are below n.
inline void keep_found_forest(std::vector<Found>& found, UnionFind& sets, int64_t n) {
  std::sort(found.begin(), found.end());
  keep_forest(found, sets, n, &Found::a, &Found::b);
}

template <class T>
double key_of(const T* x, const T* y, int64_t stride, Term term, bool robust) {
  if (robust) return robust_length(x, y, stride, term);
  return kernels<T>().refine(x, y, stride, term);
}

// Points in the order of the forest.
template <class T>
struct Block {
  explicit Block(int64_t dim) : packed(dim, scratch) {}

  typename PackedRows<T>::Scratch scratch;
  PackedRows<T> packed;
  Rows<T> rows{};
  const int64_t* ids = nullptr;
  std::vector<int32_t> order;     // by place: index in the block
  std::vector<int32_t> position;  // by place: position in the order of all points
  // By place: the largest rank from the previous place's position (exclusive) to this one's.
  std::vector<int32_t> rank;

  int64_t size() const { return static_cast<int64_t>(order.size()); }
  const T* row(int64_t place) const { return rows[order[place]]; }
  int64_t id(int64_t place) const { return ids[order[place]]; }
};

// The data that all blocks of one cloud share: how keys are computed, and the forest.
template <class T>
struct ShardForest {
  explicit ShardForest(const ShardCloud& cloud)
      : cloud(cloud),
        stride(round_up(std::max<int64_t>(cloud.dim, 1), kLanes)),
        table(kernels<T>()),
        coded(filters_by_codes(cloud.term, cloud.dim)),
        band(band_of_filter<T>(coded, cloud.lattice, cloud.dim)) {}

  const ShardCloud cloud;
  const int64_t stride;
  const Kernels<T>& table;
  const bool coded;
  const T band;
  CentredScaling<T> scaling;

  std::vector<Edge<double>> edges;  // by rank
  std::vector<int32_t> position;    // by number
  std::vector<int32_t> rank;        // by position; see merge_order
  std::vector<T> height;            // by rank, as an upper bound of keys
  std::vector<float> scaled_height;

  void set(int64_t n, const double* keys, const int64_t* ends) {
    edges.clear();
    for (int64_t k = 0; k + 1 < n; ++k) edges.push_back({keys[k], ends[2 * k], ends[2 * k + 1]});
    std::vector<int32_t> order(static_cast<size_t>(n));
    rank.resize(order.size());
    position.resize(order.size());
    merge_order(n, ends, order.data(), rank.data());
    for (int64_t p = 0; p < n; ++p) position[order[p]] = static_cast<int32_t>(p);
    // A square that has lost digits must not rule out others that have: those must be noticed.
    const double least = cloud.term == Term::kSquared ? double(underflow_limit<T>(cloud.dim)) : 0;
    height.resize(edges.size());
    std::transform(edges.begin(), edges.end(), height.begin(), [&](const Edge<double>& e) {
      return static_cast<T>(std::max(e.length, least)) * band;
    });
    scaled_height.clear();
  }

  void place(Block<T>& block) const {
    const auto at = [&](int32_t index) { return position[block.ids[index]]; };
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
    return *std::max_element(rank.begin() + from + 1, rank.begin() + to + 1);
  }

  double exact_key(const T* x, const T* y) const {
    return key_of(x, y, stride, cloud.term, cloud.robust);
  }

  Found edge(const Block<T>& a, const Block<T>& b, int64_t p, int64_t q, double key) const {
    const int64_t i = a.id(p), j = b.id(q);
    const int32_t offset = &a == &b ? 0 : static_cast<int32_t>(a.size());
    return {{key, std::min(i, j), std::max(i, j)}, a.order[p], offset + b.order[q]};
  }
};

}  // namespace tsloss
