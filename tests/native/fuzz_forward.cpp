// Clouds -> bars -> gradient: right, and the same on every way.
#include <stdexcept>

#include "fuzz_batch.h"
#include "fuzz_targets.h"

namespace fuzz {
namespace {

using namespace tsloss;

template <class T>
void check_cosine(const T* x, int64_t n, int64_t dim, const T* deaths, const int64_t* edges) {
  const auto units = units_of(x, n, dim);
  const auto tree =
      tree_of(n, [&](int64_t i, int64_t j) { return double(cosine_distance(units[i], units[j])); });
  const Barcode<T> expected(tree, [](double d) { return d; });
  for (int64_t k = 0; k + 1 < n; ++k) {
    const double root = std::sqrt(double(expected.deaths[k]));
    const double slack = 1e-14 + 4 * double(std::numeric_limits<T>::epsilon()) * root;
    if (!(std::fabs(std::sqrt(double(deaths[k])) - root) <= slack)) {
      std::fprintf(stderr, "%.17g, expected %.17g\n", double(deaths[k]),
                   double(expected.deaths[k]));
      fail("deaths under cosine");
    }
    const double own = double(cosine_distance(units[edges[2 * k]], units[edges[2 * k + 1]]));
    require(std::fabs(std::sqrt(double(deaths[k])) - std::sqrt(own)) <= slack,
            "a death under cosine is the length of its edge");
  }
}

template <class T>
void check_forward(const Batch<T>& batch, const Result<T>& r) {
  const BatchShape& s = batch.shape;
  Finding expected;
  for (int64_t c = 0; c < s.batch; ++c) {
    check_padding(s, c, r);
    const int64_t n = s.valid(c);
    const T* x = batch.cloud(c);
    const T* deaths = r.deaths.data() + s.first_bar(c);
    const int64_t* edges = r.edges.data() + 2 * s.first_bar(c);
    int64_t point = -1;
    const Problem problem = problem_of(x, n, s.dim, batch.metric, &point);
    if (problem != Problem::kNone) {
      if (expected.problem == Problem::kNone) expected = {problem, c, point, -1};
      check_nan_path(deaths, edges, n);
      continue;
    }
    if (n < 2) continue;
    require(spans(n, edges), "the edges are a spanning tree");
    for (int64_t k = 1; k + 1 < n; ++k) {
      require(shorter({double(deaths[k - 1]), edges[2 * k - 2], edges[2 * k - 1]},
                      {double(deaths[k]), edges[2 * k], edges[2 * k + 1]}),
              "bars ascend by (death, smaller index, larger index)");
    }
    if (!std::isfinite(deaths[n - 2]) && expected.problem == Problem::kNone) {
      expected = {Problem::kOverflow, c, edges[2 * n - 4], edges[2 * n - 3]};
    }
    if (batch.metric == Metric::kCosine) {
      check_cosine(x, n, s.dim, deaths, edges);
    } else if (!barcode_by_keys(x, n, s.dim, batch.metric).is(deaths, edges)) {
      require(leaves_range(x, n, s.dim), "the barcode is that of the exact keys");
      require(barcode_by_lengths(x, n, s.dim, batch.metric).is(deaths, edges),
              "the barcode is that of the exact lengths");
    }
  }
  require(r.finding.problem == expected.problem, "the problem");
  if (expected.problem != Problem::kNone) {
    require(
        r.finding.cloud == expected.cloud && r.finding.i == expected.i && r.finding.j == expected.j,
        "where the problem is");
  }
}

// The part of one end of an edge in the gradient of its death.
template <class T>
void add_part(const Batch<T>& batch, const std::vector<std::vector<long double>>& units, const T* x,
              int64_t v, int64_t u, double g, double death, std::vector<double>& sum,
              std::vector<double>& size) {
  const int64_t dim = batch.shape.dim;
  long double norm = 0;
  for (int64_t k = 0; k < dim; ++k) {
    norm = std::hypot(norm, static_cast<long double>(x[v * dim + k]));
  }
  for (int64_t k = 0; k < dim; ++k) {
    const double d = double(x[v * dim + k]) - double(x[u * dim + k]);
    double part = 0, slack = 0;
    switch (batch.metric) {
      case Metric::kEuclidean:
        part = death == 0 ? 0 : g * (d / death);
        // A quotient below the least normal double has lost digits.
        slack = std::fabs(g) *
                (std::numeric_limits<double>::min() / double(std::numeric_limits<T>::epsilon()));
        break;
      case Metric::kSqeuclidean:
        part = 2 * g * d;
        break;
      case Metric::kManhattan:
        part = d > 0 ? g : d < 0 ? -g : 0;
        break;
      case Metric::kCosine: {
        const long double own = units[v][k], other = units[u][k];
        part = double(g * ((own - other) - cosine_distance(units[v], units[u]) * own) / norm);
        // Unit vectors are known to some units of rounding of a double.
        slack = double(std::fabs(g) / norm) * (8 + double(dim) / 4) *
                std::numeric_limits<double>::epsilon() / std::numeric_limits<T>::epsilon();
      }
    }
    sum[v * dim + k] += part;
    size[v * dim + k] += std::fabs(part) + slack;
  }
}

template <class T>
void check_gradient(const Batch<T>& batch, int64_t c, const Result<T>& r, const Array<T>& weights,
                    const T* gradient) {
  const BatchShape& s = batch.shape;
  const int64_t n = s.valid(c), first = s.first_bar(c);
  const T* x = batch.cloud(c);
  std::vector<std::vector<long double>> units;
  if (batch.metric == Metric::kCosine) units = units_of(x, n, s.dim);
  std::vector<double> sum(static_cast<size_t>(n * s.dim)), size(sum.size());
  for (int64_t k = first; k < first + std::max<int64_t>(n - 1, 0); ++k) {
    const int64_t i = r.edges[2 * k], j = r.edges[2 * k + 1];
    const double g = double(weights[k]), death = double(r.deaths[k]);
    if (!std::isfinite(g) || !std::isfinite(death)) return;
    add_part(batch, units, x, i, j, g, death, sum, size);
    add_part(batch, units, x, j, i, g, death, sum, size);
  }
  const double eps = double(std::numeric_limits<T>::epsilon());
  const double most = double(std::numeric_limits<T>::max()) / 4;
  for (int64_t k = 0; k < n * s.dim; ++k) {
    if (!(size[k] < most)) continue;
    const double slack = (double(n) + 8) * (eps * size[k] + double(std::numeric_limits<T>::min()));
    if (!(std::fabs(double(gradient[k]) - sum[k]) <= slack)) {
      std::fprintf(stderr, "metric %d, number %lld: %.17g, expected %.17g +- %.3g\n",
                   static_cast<int>(batch.metric), static_cast<long long>(k), double(gradient[k]),
                   sum[k], slack);
      fail("the gradient is finite and right");
    }
  }
  for (int64_t k = n * s.dim; k < s.points_of(c) * s.dim; ++k) {
    require(gradient[k] == 0, "the gradient of the padding");
  }
}

}  // namespace

template <class T>
void forward_and_backward(Input& in) {
  Batch<T> batch = Batch<T>::read(in);
  const BatchShape& s = batch.shape;
  const Way ways[] = {Way::first(), Way::read(in), Way::read(in)};
  Result<T> results[] = {Result<T>(batch.bars()), Result<T>(batch.bars(), 1),
                         Result<T>(batch.bars(), 3)};
  for (int k = 0; k < 3; ++k) {
    ways[k].take();
    results[k].finding =
        h0_forward(dtype_of<T>(), batch.metric, s, batch.points.data(), results[k].deaths.data(),
                   results[k].edges.data(), ways[k].threads);
  }
  const Result<T>& r = results[0];
  check_forward(batch, r);
  require(results[1] == r && results[2] == r, "the same bits on every way");

  BatchShape whole = s;
  whole.lengths = nullptr;
  Array<T> weights(batch.bars(), 1), one(batch.points.size(), 1), many(batch.points.size(), 1);
  fill_weights(in, weights);
  for (Array<T>* out : {&one, &many}) {
    h0_backward(dtype_of<T>(), batch.metric, whole, weights.data(), batch.points.data(),
                r.deaths.data(), r.edges.data(), out->data(), out == &one ? 1 : ways[1].threads);
  }
  require(same_numbers(one, many), "the same gradient for any number of threads");
  for (int64_t c = 0; c < s.batch; ++c) {
    int64_t point;
    const int64_t n = s.valid(c);
    const T* gradient = one.data() + s.first_point(c) * s.dim;
    if (problem_of(batch.cloud(c), n, s.dim, batch.metric, &point) == Problem::kNone) {
      check_gradient(batch, c, r, weights, gradient);
    } else if (n > 1 && batch.metric == Metric::kCosine) {
      const bool none =
          std::all_of(gradient, gradient + n * s.dim, [](T g) { return std::isnan(g); });
      require(none, "a cloud without angles has no gradient");
    }
  }
}

template <class T>
void backward_of_any_edges(Input& in) {
  Batch<T> batch = Batch<T>::read(in);
  BatchShape whole = batch.shape;
  whole.lengths = nullptr;
  Array<T> weights(batch.bars()), deaths(batch.bars()), out(batch.points.size());
  fill_weights(in, weights);
  fill_weights(in, deaths);
  Array<int64_t> edges(2 * batch.bars());
  Random random{in.word()};
  const uint64_t reach = static_cast<uint64_t>(whole.points) + in.below(4);
  for (int64_t k = 0; k < edges.size(); ++k) {
    edges[k] = static_cast<int64_t>(random() % (reach + 1)) - (random() % 64 == 0);
  }
  const Way way = Way::read(in);
  way.take();
  try {
    h0_backward(dtype_of<T>(), batch.metric, whole, weights.data(), batch.points.data(),
                deaths.data(), edges.data(), out.data(), way.threads);
  } catch (const std::out_of_range&) {
  }
}

template void forward_and_backward<float>(Input& in);
template void forward_and_backward<double>(Input& in);
template void backward_of_any_edges<float>(Input& in);
template void backward_of_any_edges<double>(Input& in);

}  // namespace fuzz
