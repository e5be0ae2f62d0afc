// Keys, the filter, distance matrices, linkage: right, and the same on every way.
#include <stdexcept>

#include "fuzz_batch.h"
#include "fuzz_targets.h"

namespace fuzz {
namespace {

using namespace tsloss;

// The kinds of entries of a matrix with m valid rows of n numbers.
struct Entries {
  bool nan = false;
  bool refused = false;  // negative, asymmetric, or on the diagonal and not 0
  bool infinite = false;
  bool symmetric = true;

  bool has_tree() const { return !nan && !refused; }
};

template <class T>
bool asymmetric(T a, T b, double tolerance) {
  const double gap = std::fabs(double(a) - double(b));
  return !(gap <= tolerance * std::max(a, b)) || std::isinf(gap);
}

template <class T>
Entries look_at(const T* d, int64_t n, int64_t m, double tolerance) {
  Entries found;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < m; ++j) {
      const T a = d[i * n + j], b = d[j * n + i];
      found.nan = found.nan || std::isnan(a);
      found.refused =
          found.refused || a < 0 || (i == j && a != 0) || (a != b && asymmetric(a, b, tolerance));
      found.infinite = found.infinite || std::isinf(a);
      found.symmetric = found.symmetric && a == b;
    }
  }
  return found;
}

template <class T>
bool is_problem(const T* d, int64_t n, const tsloss::Finding& f, double tolerance) {
  const T a = d[f.i * n + f.j], b = d[f.j * n + f.i];
  switch (f.problem) {
    case Problem::kNonFinite:
      return !std::isfinite(a);
    case Problem::kNegative:
      return a < 0;
    case Problem::kDiagonal:
      return f.i == f.j && a != 0;
    case Problem::kAsymmetric:
      return asymmetric(a, b, tolerance);
    default:
      return false;
  }
}

}  // namespace

template <class T>
void keys_and_filter(Input& in) {
  Batch<T> batch = Batch<T>::read(in);
  BatchShape s = batch.shape;
  if (s.offsets || s.batch == 0) return;
  s.lengths = nullptr;
  const Way way = Way::read(in);
  way.take();
  const int64_t n = s.points;
  Array<T> keys(s.batch * n * n), again(s.batch * n * n);
  pairwise_keys(dtype_of<T>(), batch.metric, s, batch.points.data(), keys.data(), way.threads);
  pairwise_keys(dtype_of<T>(), batch.metric, s, batch.points.data(), again.data(), 1);
  const double band = 4 * (double(s.dim) + 40) * double(std::numeric_limits<T>::epsilon());
  const double low = double(tsloss::underflow_limit<T>(s.dim));
  const double most = double(std::numeric_limits<T>::max()) / 4;
  bool plain = true;
  for (int64_t c = 0; c < s.batch; ++c) {
    const T* x = batch.points.data() + c * n * s.dim;
    int64_t point;
    if (problem_of(x, n, s.dim, Metric::kEuclidean, &point) != Problem::kNone) {
      plain = plain && c > 0;
      continue;
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const double key = double(keys[(c * n + i) * n + j]);
        require(key == double(again[(c * n + i) * n + j]), "the same keys for any threads");
        const double exact =
            exact_key(x + i * s.dim, x + j * s.dim, s.dim, batch.metric != Metric::kManhattan);
        if (exact > most || exact < low) {
          const bool copies = std::equal(x + i * s.dim, x + (i + 1) * s.dim, x + j * s.dim);
          plain = plain && (c > 0 || copies);
          continue;
        }
        require(std::fabs(key - exact) <= band * exact, "a fast key is near the exact one");
      }
    }
  }
  if (!plain || batch.metric == Metric::kManhattan) return;
  Array<uint8_t> kept(n * n, 0, uint8_t{0});
  s.batch = 1;
  filter_keeps(dtype_of<T>(), s, batch.points.data(), 1.0, kept.data());
  for (int64_t k = 0; k < n * n; ++k) require(kept[k] == 1, "the filter loses no pair");
}

template <class T>
void matrices(Input& in) {
  const int64_t batch = in.below(4);
  int64_t n = size_of(in, 300);
  while (batch * n * n > 200000) n /= 2;
  Array<int64_t> lengths(batch);
  const bool padded = in.flag();
  for (int64_t b = 0; b < batch; ++b) lengths[b] = in.flag() ? n : in.below(n + 1);
  Array<T> d(batch * n * n, static_cast<int>(in.below(4)));
  fill(in, d.data(), batch * n, n);
  // Most entries of most matrices are what they should be.
  const int64_t defects = in.below(4) == 0 ? in.below(5) : 0;
  const bool rounded = in.flag(), untouched = in.byte() % 16 == 15;
  Random random{in.word()};
  const double tolerance = sizeof(T) == 8 ? 1e-10 : 1e-5;
  for (int64_t b = 0; b < batch && !untouched; ++b) {
    T* m = d.data() + b * n * n;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < i; ++j) {
        m[i * n + j] = std::fabs(m[i * n + j]);
        m[j * n + i] = m[i * n + j];
        if (rounded && random() % 4 == 0) m[j * n + i] *= T(1 + tolerance / 4);
      }
      m[i * n + i] = 0;
    }
    for (int64_t k = 0; k < defects && n > 0; ++k) {
      m[random() % uint64_t(n * n)] = raw<T>(random());
    }
  }
  const BatchShape shape{batch, n, 0, padded ? lengths.data() : nullptr};
  const int64_t bars = batch * shape.bars();
  const Way ways[] = {Way::first(), Way::read(in), Way::read(in)};
  Result<T> results[] = {Result<T>(bars), Result<T>(bars, 1), Result<T>(bars, 2)};
  for (int k = 0; k < 3; ++k) {
    ways[k].take();
    results[k].finding =
        h0_from_distances(dtype_of<T>(), shape, d.data(), tolerance, results[k].deaths.data(),
                          results[k].edges.data(), ways[k].threads);
    require(results[k] == results[0], "the same bits on every way from distances");
  }
  // The cloud to be named: the first that is refused, else the first with numbers not finite.
  int64_t refused = -1, not_finite = -1;
  for (int64_t c = batch - 1; c >= 0; --c) {
    const Entries found = look_at(d.data() + c * n * n, n, shape.valid(c), tolerance);
    if (found.nan || (found.infinite && !found.refused)) not_finite = c;
    if (found.refused && !found.nan) refused = c;
  }
  const Finding& said = results[0].finding;
  const int64_t named = refused >= 0 ? refused : not_finite;
  require((said.problem != Problem::kNone) == (named >= 0),
          "bad matrices are found, and no others");
  if (named >= 0) {
    require(said.cloud == named, "the first bad matrix is named");
    require(is_problem(d.data() + named * n * n, n, said, tolerance), "the entry is bad");
    require((said.problem == Problem::kNonFinite) == (refused < 0), "what is refused comes first");
  }
  for (int64_t c = 0; c < batch; ++c) {
    check_padding(shape, c, results[0]);
    const int64_t m = shape.valid(c);
    const T* deaths = results[0].deaths.data() + shape.first_bar(c);
    const int64_t* edges = results[0].edges.data() + 2 * shape.first_bar(c);
    const Entries found = look_at(d.data() + c * n * n, n, m, tolerance);
    if (!found.has_tree()) {
      check_nan_path(deaths, edges, m);
      continue;
    }
    const auto tree = tree_of(m, [&](int64_t i, int64_t j) {
      const T a = d[c * n * n + i * n + j], b = d[c * n * n + j * n + i];
      return double(found.symmetric ? a : T(0.5) * a + T(0.5) * b);
    });
    require(m < 2 || Barcode<T>(
                         tree, [](double x) { return x; })
                         .is(deaths, edges),
            "the barcode of a matrix");
  }
}

void linkage(Input& in) {
  const int64_t batch = in.below(4), n = size_of(in, 200), bars = std::max<int64_t>(n - 1, 0);
  Array<int64_t> edges(2 * batch * bars), merges(3 * batch * bars);
  Random random{in.word()};
  const int64_t wrong = in.below(4);
  for (int64_t k = 0; k < batch * bars; ++k) {
    // A point with one before it: a tree, in any order of merging.
    const int64_t j = 1 + k % bars;
    edges[2 * k] = static_cast<int64_t>(random() % uint64_t(j));
    edges[2 * k + 1] = j;
    if (wrong == 3 && random() % 50 == 0) {
      edges[2 * k + random() % 2] = static_cast<int64_t>(random() % uint64_t(2 * n)) - n / 2;
    }
  }
  bool tree = true;
  for (int64_t b = 0; b < batch; ++b) tree = tree && spans(n, edges.data() + 2 * b * bars);
  try {
    single_linkage(batch, n, edges.data(), merges.data());
  } catch (const std::logic_error&) {  // out_of_range, invalid_argument
    return require(!tree, "a tree has a linkage");
  }
  for (int64_t b = 0; b < batch && bars > 0; ++b) {
    require(merges[3 * ((b + 1) * bars - 1) + 2] == n, "the last cluster has all points");
    for (int64_t k = b * bars; k < (b + 1) * bars; ++k) {
      require(merges[3 * k] < merges[3 * k + 1] && merges[3 * k + 1] < n + k - b * bars,
              "a merge joins clusters that exist");
    }
  }
}

template void keys_and_filter<float>(Input& in);
template void keys_and_filter<double>(Input& in);
template void matrices<float>(Input& in);
template void matrices<double>(Input& in);

}  // namespace fuzz
