// One cloud in several shards: the same deaths and, but for the edges between copies, the same
// edges as those of h0_forward.
#include <algorithm>
#include <numeric>

#include "cpu/tuning.h"
#include "fuzz_oracle.h"
#include "fuzz_targets.h"
#include "sharded.h"

namespace fuzz {
namespace {

using namespace tsloss;

// Without the edges of length 0, which join copies in another way.
template <class T>
std::vector<int64_t> ends_above_zero(const Array<T>& deaths, const Array<int64_t>& edges) {
  std::vector<int64_t> ends;
  for (int64_t k = 0; k < deaths.size(); ++k) {
    if (deaths[k] != 0) ends.insert(ends.end(), {edges[2 * k], edges[2 * k + 1]});
  }
  return ends;
}

// Between two places in the order of the forest stands the number of the edge that joins them.
void check_order(int64_t n, const std::vector<int64_t>& ends) {
  Array<int64_t> edges(2 * (n - 1));
  std::copy(ends.begin(), ends.end(), edges.data());
  Array<int32_t> order(n), rank(n);
  merge_order(n, edges.data(), order.data(), rank.data());
  std::vector<int64_t> place(static_cast<size_t>(n), -1), label(place.size());
  for (int64_t p = 0; p < n; ++p) place[order[p]] = p;
  require(std::count(place.begin(), place.end(), -1) == 0, "an order of all points");
  std::iota(label.begin(), label.end(), 0);
  for (int64_t k = 0; k + 1 < n; ++k) {
    const int64_t a = label[place[edges[2 * k]]], b = label[place[edges[2 * k + 1]]];
    for (int64_t p = 0; p < n && n <= 64; ++p) {
      for (int64_t q = p + 1; q < n; ++q) {
        if (std::minmax(label[p], label[q]) != std::minmax(a, b)) continue;
        require(*std::max_element(rank.data() + p + 1, rank.data() + q + 1) == k, "the ranks");
      }
    }
    std::replace(label.begin(), label.end(), b, a);
  }
}

template <class T, class W>
void run(Input& in, Metric metric) {
  const int64_t n = std::max<int64_t>(size_of(in, 200), 1);
  int64_t dim = size_of(in, 130);
  while (n * n * std::max<int64_t>(dim, 4) > 1000000) dim /= 2;
  const int threads = 1 + static_cast<int>(in.below(3));
  overrides().coded = static_cast<int>(in.below(3)) - 1;
  const auto isas = supported_isas();
  set_isa(isas[static_cast<size_t>(in.below(static_cast<int64_t>(isas.size())))]);
  std::vector<int64_t> starts{0};
  for (int64_t more = in.below(4); more > 0; --more) {
    starts.push_back(starts.back() + in.below(n - starts.back() + 1));
  }
  starts.push_back(n);
  Array<T> points(n * dim, static_cast<int>(in.below(4)));
  fill(in, points.data(), n, dim);

  const BatchShape shape{1, n, dim};
  Array<T> deaths(n - 1, 0, T{0}), expected(n - 1);
  Array<int64_t> edges(2 * (n - 1), 0, int64_t{0}), expected_edges(2 * (n - 1));
  Edges tree;
  const Finding found = sharded_h0<T, W>(metric, points.data(), n, dim, starts, threads,
                                         deaths.data(), edges.data(), &tree);
  const Finding whole = h0_forward(dtype_of<T>(), metric, shape, points.data(), expected.data(),
                                   expected_edges.data(), threads);
  require(
      found.problem == whole.problem && (found.problem == Problem::kOverflow || found.i == whole.i),
      "shards: the problem of the whole cloud");
  if (found.problem != Problem::kNone && found.problem != Problem::kOverflow) return;
  require(spans(n, edges.data()), "shards: a spanning tree");
  require(deaths == expected, "shards: the deaths of the whole cloud");
  require(ends_above_zero(deaths, edges) == ends_above_zero(expected, expected_edges),
          "shards: the edges of the whole cloud");
  check_order(n, tree.ends);
}

}  // namespace

template <class T>
void shards(Input& in) {
  const Metric metric = static_cast<Metric>(in.below(4));
  if (metric == Metric::kCosine) return run<T, double>(in, metric);
  run<T, T>(in, metric);
}

template void shards<float>(Input& in);
template void shards<double>(Input& in);

}  // namespace fuzz
