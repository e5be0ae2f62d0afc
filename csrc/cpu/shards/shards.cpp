#include "cpu/shards/shards.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/large/distinct.h"
#include "cpu/rows.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/tree/forest.h"

namespace tsloss {
namespace {

template <class T, class W>
Shard load_as(Metric metric, const T* points, int64_t n, int64_t dim, W* rows, int threads) {
  const int64_t stride = round_up(std::max<int64_t>(dim, 1), kLanes);
  Shard shard;
  constexpr int64_t kGrain = 48;
  // The points are read once, since another thread may write to them. The rest works on the rows.
  std::vector<Problem> problems(static_cast<size_t>(n));
  parallel_for((n + kGrain - 1) / kGrain, threads, [&](int64_t task, int) {
    for (int64_t i = task * kGrain; i < std::min(n, (task + 1) * kGrain); ++i) {
      problems[i] = load_point(metric, points, dim, stride, i, rows + i * stride);
    }
  });
  const auto load = [&](int64_t i, W* x) {
    std::copy_n(rows + i * stride, stride, x);
    return problems[i];
  };
  Distinct<W> distinct = find_distinct<W>(n, stride, threads, load, shard.joined);
  shard.finding = distinct.finding;
  if (shard.finding.problem != Problem::kNone) return shard;
  shard.largest = double(distinct.largest);
  shard.lattice = distinct.lattice;
  shard.ids.assign(distinct.ids.begin(), distinct.ids.end());
  const int64_t count = static_cast<int64_t>(shard.ids.size());
  for (int64_t k = 0; k < count; ++k) {  // ids[k] >= k, so ascending copies overwrite no id's row
    if (shard.ids[k] != k) std::copy_n(rows + shard.ids[k] * stride, stride, rows + k * stride);
  }
  return shard;
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
  for (int64_t k = 0; k < count; ++k) {
    // NaN cannot be sorted, so it becomes infinite.
    const double key = keys[k] >= 0 ? keys[k] : std::numeric_limits<double>::infinity();
    links[k] = {key, edges[2 * k], edges[2 * k + 1]};
  }
  UnionFind sets(0);
  keep_exact_forest(links, sets, n);
  for (size_t k = 0; k < links.size(); ++k) {
    keys[k] = links[k].length;
    edges[2 * k] = links[k].i;
    edges[2 * k + 1] = links[k].j;
  }
  return static_cast<int64_t>(links.size());
}

void merge_order(int64_t n, const int64_t* edges, int32_t* order, int32_t* rank) {
  std::vector<Edge<double>> tree;
  for (int64_t k = 0; k + 1 < n; ++k) tree.push_back({0, edges[2 * k], edges[2 * k + 1]});
  UnionFind sets(0);
  std::vector<int32_t> points, ranks;
  merge_order(tree, sets, n, points, ranks);
  std::copy(points.begin(), points.end(), order);
  std::copy(ranks.begin(), ranks.end(), rank);
}

void exact_keys(Dtype dtype, Metric metric, bool robust, const void* rows, int64_t stride,
                int64_t count, const int64_t* a, const int64_t* b, double* keys) {
  const auto as = [&](auto number) {
    const auto* x = static_cast<const decltype(number)*>(rows);
    for (int64_t k = 0; k < count; ++k) {
      keys[k] = key_of(x + a[k] * stride, x + b[k] * stride, stride, term_of(metric), robust);
    }
  };
  dtype == Dtype::kFloat64 ? as(0.0) : as(0.0f);
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
