// Runs the native core on random and ugly batches from three threads at once, for the sanitizers to
// watch. Exits with 1 if a result depends on the number of threads, or if the edges of points that
// change during the call do not form a tree. usage: stress [REPETITIONS]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "cpu/runtime/buffer.h"
#include "cpu/runtime/monitor.h"
#include "cpu/tree/union_find.h"
#include "cpu/tuning.h"
#include "sharded.h"
#include "tsloss.h"

using namespace tsloss;

namespace {

template <class T>
struct Results {
  std::vector<T> deaths;
  std::vector<T> grad;
  std::vector<int64_t> edges;
  bool operator==(const Results& other) const {
    return edges == other.edges && same(deaths, other.deaths) && same(grad, other.grad);
  }
  static bool same(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() &&
           (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
  }
};

template <class T>
Results<T> compute(Metric metric, const BatchShape& shape, const std::vector<double>& points,
                   int threads) {
  const Dtype dtype = sizeof(T) == 8 ? Dtype::kFloat64 : Dtype::kFloat32;
  const std::vector<T> x(points.begin(), points.end());
  const size_t bars = static_cast<size_t>(shape.batch * shape.bars());
  Results<T> r{std::vector<T>(bars), std::vector<T>(x.size()), std::vector<int64_t>(2 * bars)};
  h0_forward(dtype, metric, shape, x.data(), r.deaths.data(), r.edges.data(), threads);
  BatchShape whole = shape;
  whole.lengths = nullptr;
  const std::vector<T> ones(bars, T{1});
  h0_backward(dtype, metric, whole, ones.data(), x.data(), r.deaths.data(), r.edges.data(),
              r.grad.data(), threads);
  const size_t n = static_cast<size_t>(shape.points);
  std::vector<T> keys(static_cast<size_t>(shape.batch) * n * n);
  pairwise_keys(dtype, metric, whole, x.data(), keys.data(), threads);
  std::vector<T> deaths(bars);
  std::vector<int64_t> edges(2 * bars);
  h0_from_distances(dtype, whole, keys.data(), 1e-9, deaths.data(), edges.data(), threads);
  std::vector<int64_t> merges(3 * bars);
  single_linkage(shape.batch, shape.points, edges.data(), merges.data());
  return r;
}

bool random_batches(int repetitions) {
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  for (int repetition = 0; repetition < repetitions; ++repetition) {
    const int64_t batch = random() % 5, n = random() % 90, dim = random() % 40;
    std::vector<double> points(static_cast<size_t>(batch * n * dim));
    for (double& v : points) v = random() % 7 == 0 ? 0 : normal(random);
    std::vector<int64_t> lengths(static_cast<size_t>(batch));
    for (int64_t& l : lengths) l = random() % (n + 1);
    const BatchShape shape{batch, n, dim, lengths.data()};
    bool good[3] = {};
    const auto work = [&](int index, int threads) {
      bool same = true;
      for (int m = 0; m < 4; ++m) {
        const Metric metric = static_cast<Metric>(m);
        same = same && compute<float>(metric, shape, points, threads) ==
                           compute<float>(metric, shape, points, 1);
        same = same && compute<double>(metric, shape, points, threads) ==
                           compute<double>(metric, shape, points, 1);
      }
      good[index] = same;
    };
    std::thread first(work, 0, 3), second(work, 1, 2);
    work(2, 4);
    first.join();
    second.join();
    if (!good[0] || !good[1] || !good[2]) return false;
  }
  return true;
}

// One cloud on several threads: tiles, the rescue path at tiny scales, and every path forced, with
// both filters.
bool single_clouds() {
  std::mt19937 random(2);
  std::normal_distribution<double> normal;
  std::vector<double> tiny(600 * 50);
  for (double& v : tiny) v = 1e-30 * normal(random);
  std::vector<double> grid(700 * 60);
  for (double& v : grid) v = random() % 3;
  std::vector<double> cloud(700 * 60);
  for (double& v : cloud) v = normal(random);
  bool good = true;
  for (const char* name : supported_isas()) {
    set_isa(name);
    const BatchShape shape{1, 600, 50, nullptr};
    good = good && compute<float>(Metric::kEuclidean, shape, tiny, 4) ==
                       compute<float>(Metric::kEuclidean, shape, tiny, 1);
    const BatchShape large{1, 700, 60, nullptr};
    for (const std::vector<double>* points : {&grid, &cloud}) {
      overrides() = {};
      overrides().path = Path::kSmall;
      const Results<float> expected = compute<float>(Metric::kEuclidean, large, *points, 1);
      const Results<double> wide = compute<double>(Metric::kEuclidean, large, *points, 1);
      for (int way = 0; way < 4; ++way) {
        overrides() = {};
        overrides().path = way == 0 ? Path::kPacked : Path::kLarge;
        overrides().coded = way > 1;
        overrides().wave_one_in = way == 3 ? 4 : 0;
        for (int threads : {1, 3}) {
          good = good && compute<float>(Metric::kEuclidean, large, *points, threads) == expected;
          good = good && compute<double>(Metric::kEuclidean, large, *points, threads) == wide;
        }
      }
    }
    overrides() = {};
  }
  return good;
}

// Clouds in low dimensions on several threads: by a k-d tree as by all pairs, on a lattice with
// copies and where squares leave the range, too.
bool low_dimensions() {
  std::mt19937 random(4);
  std::normal_distribution<double> normal;
  bool good = true;
  for (int64_t dim = 1; dim <= 4; ++dim) {
    const int64_t n = 700;
    std::vector<double> lattice(static_cast<size_t>(n * dim)), cloud = lattice, tiny = lattice;
    for (double& v : lattice) v = random() % 9;
    for (double& v : cloud) v = normal(random);
    for (double& v : tiny) v = 1e-30 * normal(random);
    const BatchShape shape{1, n, dim, nullptr};
    for (const std::vector<double>* points : {&lattice, &cloud, &tiny}) {
      for (const Metric metric : {Metric::kEuclidean, Metric::kManhattan}) {
        overrides().path = Path::kPacked;
        const Results<float> expected = compute<float>(metric, shape, *points, 1);
        overrides().path = Path::kSpatial;
        for (const char* name : supported_isas()) {
          set_isa(name);
          good = good && compute<float>(metric, shape, *points, 3) == expected;
        }
        overrides() = {};
      }
    }
  }
  return good;
}

// One cloud in shards, by distances, codes and lengths, from three threads at once: the tree of the
// whole cloud.
template <class T>
bool in_shards(Metric metric, int64_t n, int64_t dim, double scale) {
  std::mt19937 random(3);
  std::normal_distribution<double> normal;
  std::vector<double> points(static_cast<size_t>(n * dim));
  for (double& v : points) v = scale * normal(random);
  const std::vector<T> x(points.begin(), points.end());
  const Results<T> whole = compute<T>(metric, {1, n, dim}, points, 1);
  bool good[3] = {};
  const auto work = [&](int index, int threads) {
    Results<T> r{std::vector<T>(n - 1), whole.grad, std::vector<int64_t>(2 * n - 2)};
    fuzz::Edges tree;
    fuzz::sharded_h0<T, T>(metric, x.data(), n, dim, {0, n / 3, n / 3, n}, threads, r.deaths.data(),
                           r.edges.data(), &tree);
    good[index] = r == whole;
  };
  std::thread first(work, 0, 3), second(work, 1, 2);
  work(2, 4);
  first.join();
  second.join();
  return good[0] && good[1] && good[2];
}

bool shards() {
  bool good = true;
  for (const char* name : supported_isas()) {
    set_isa(name);
    good = good && in_shards<float>(Metric::kEuclidean, 300, 50, 1) &&
           in_shards<double>(Metric::kEuclidean, 200, 50, 1e-200) &&
           in_shards<float>(Metric::kManhattan, 200, 5, 1) &&
           in_shards<double>(Metric::kSqeuclidean, 300, 7, 1);
  }
  return good;
}

// Half of the points of a large cloud, which is read where it stands, become huge at some poll of
// the call. The norms of their codes are then infinite, but the edges are still a spanning tree.
bool changing_points() {
  constexpr int64_t n = 389, dim = 96;  // the last block has so few columns that codes decide there
  struct Writer {
    Buffer<float> buffer;
    float* x = buffer.reserve(n, dim);
    int left = 0;

    static bool poll(void* context, double) {
      Writer& writer = *static_cast<Writer*>(context);
      if (writer.left-- == 0) {
        for (int64_t i = 0; i < n; i += 2) writer.x[i * dim] = 3e38f;
      }
      return true;
    }
  } writer;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> points(n * dim), deaths(n - 1);
  std::vector<int64_t> edges(2 * (n - 1));
  for (float& v : points) v = normal(random);
  overrides().path = Path::kLarge;
  overrides().wave_one_in = 2;
  overrides().poll_milliseconds = 0;
  bool good = true;
  for (int at = 0; good; at += 4) {
    std::copy(points.begin(), points.end(), writer.x);
    writer.left = at;
    {
      Monitor monitor(Writer::poll, &writer);
      h0_forward(Dtype::kFloat32, Metric::kEuclidean, {1, n, dim}, writer.x, deaths.data(),
                 edges.data(), 1);
    }
    if (writer.left >= 0) break;  // the call had fewer polls
    UnionFind sets(n);
    for (int64_t k = 0; k + 1 < n && good; ++k) {
      const int64_t a = sets.find(edges[2 * k]), b = sets.find(edges[2 * k + 1]);
      good = a != b;
      if (good) sets.unite(a, b);
    }
  }
  overrides() = {};
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  const int repetitions = argc > 1 ? std::atoi(argv[1]) : 40;
  const bool good = random_batches(repetitions) && single_clouds() && low_dimensions() &&
                    shards() && changing_points();
  std::puts(good ? "same bits for any number of threads" : "DIFFERENT BITS");
  return good ? 0 : 1;
}
