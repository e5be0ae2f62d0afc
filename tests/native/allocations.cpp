// Every allocation of every call fails once: the k-th alone, and all from the k-th on. Each time
// the call throws std::bad_alloc, or does without and is right; the next call is right, and nothing
// leaks (LeakSanitizer looks at the end). Threads that cannot be started are done without, too.
// Thresholds are meant to be low; see native_build.py.
#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>

#include "cpu/runtime/buffer.h"
#include "cpu/tuning.h"
#include "failing_new.h"
#include "sharded.h"

namespace {

std::atomic<bool> no_threads{false};

}  // namespace

extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                              void* (*run)(void*), void* argument) {
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const Create real = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  return no_threads ? EAGAIN : real(thread, attributes, run, argument);
}

namespace {

using namespace tsloss;
using failing::failures;
using failing::from_then_on;
using failing::left;
using fuzz::Array;

struct Result {
  std::vector<char> bytes;
  template <class T>
  void add(const Array<T>& a) {
    const char* p = reinterpret_cast<const char*>(a.data());
    bytes.insert(bytes.end(), p, p + a.size() * static_cast<int64_t>(sizeof(T)));
  }
};

// What is called, and where its results are afterwards.
struct Case {
  std::string name;
  std::function<void()> call;
  std::function<Result()> result;
};

bool good = true;
long tried = 0;

void complain(const Case& c, long k, const char* what) {
  std::printf("%s, allocation %ld: %s\n", c.name.c_str(), k, what);
  good = false;
}

// The call on a thread of its own, which has kept no memory from calls before.
template <class F>
void on_new_thread(const F& f) {
  std::thread(f).join();
}

void fail_each(const Case& c) {
  on_new_thread(c.call);
  const Result expected = c.result();
  for (const bool all : {false, true}) {
    for (long k = 0, broken = 1; broken > 0; ++k, ++tried) {
      bool thrown = false;
      on_new_thread([&] {
        failures = 0;
        from_then_on = all;
        left = k;
        try {
          c.call();
        } catch (const std::bad_alloc&) {
          thrown = true;
        } catch (...) {
          complain(c, k, "another exception");
          thrown = true;
        }
        left = -1;
      });
      broken = failures;
      if (thrown) {
        if (broken == 0) return complain(c, k, "bad_alloc out of nothing");
        if (k % 5 != 0) continue;
        on_new_thread(c.call);
      }
      if (c.result().bytes != expected.bytes) complain(c, k, "different bits afterwards");
    }
  }
}

template <class T>
Array<T> cloud(int64_t count, double scale, uint64_t seed) {
  Array<T> x(count);
  fuzz::Random random{seed};
  // A tenth of all numbers is the same: ties and copies.
  for (int64_t k = 0; k < count; ++k) {
    x[k] = static_cast<T>(scale * (random() % 10 == 0 ? 1.0 : random.normal()));
  }
  return x;
}

// A way through the core, in one batch of two clouds and in both directions.
template <class T>
void forward_and_backward(const char* name, Metric metric, int64_t n, int64_t dim, double scale,
                          Overrides way, int threads, bool ragged = false) {
  Array<T> x = cloud<T>(2 * n * dim, scale, 1);
  const int64_t bars = n - 1;
  Array<int64_t> lengths(2), offsets(3), bar_offsets(3), edges(4 * bars, 0, int64_t{-1});
  Array<T> deaths(2 * bars, 0, T{0}), weights(2 * bars, 0, T{1}), grad(2 * n * dim, 0, T{0});
  lengths[0] = n, lengths[1] = n / 2;
  for (int64_t c = 0; c < 3; ++c) offsets[c] = c * n, bar_offsets[c] = c * bars;
  BatchShape shape{2, n, dim, ragged ? nullptr : lengths.data(), nullptr, nullptr};
  if (ragged) shape.offsets = offsets.data(), shape.bar_offsets = bar_offsets.data();
  overrides() = way;
  const auto result = [&] {
    Result r;
    r.add(deaths), r.add(edges), r.add(grad);
    return r;
  };
  fail_each({std::string(name) + ", forward",
             [&] {
               h0_forward(fuzz::dtype_of<T>(), metric, shape, x.data(), deaths.data(), edges.data(),
                          threads);
             },
             result});
  shape.lengths = nullptr;
  fail_each({std::string(name) + ", backward",
             [&] {
               h0_backward(fuzz::dtype_of<T>(), metric, shape, weights.data(), x.data(),
                           deaths.data(), edges.data(), grad.data(), threads);
             },
             result});
  overrides() = {};
}

void matrices(int64_t n, double asymmetry, int threads) {
  Array<double> d = cloud<double>(n * n, 1.0, 2);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) {
      d[i * n + j] = std::fabs(d[i * n + j]);
      d[j * n + i] = d[i * n + j] * (1 + asymmetry);
    }
    d[i * n + i] = 0;
  }
  Array<double> deaths(n - 1);
  Array<int64_t> edges(2 * n - 2), merges(3 * n - 3, 0, int64_t{0});
  const auto result = [&] {
    Result r;
    r.add(deaths), r.add(edges), r.add(merges);
    return r;
  };
  const BatchShape shape{1, n, 0};
  fail_each({"h0_from_distances",
             [&] {
               h0_from_distances(Dtype::kFloat64, shape, d.data(), 1e-9, deaths.data(),
                                 edges.data(), threads);
             },
             result});
  fail_each({"single_linkage", [&] { single_linkage(1, n, edges.data(), merges.data()); }, result});
}

void others() {
  const int64_t n = 50, dim = 20;
  Array<float> x = cloud<float>(n * dim, 1.0, 3);
  Array<float> keys(n * n), loss(1), grad(n - 1, 0, 0.0f);
  Array<uint8_t> kept(n * n);
  const BatchShape shape{1, n, dim};
  const auto result = [&] {
    Result r;
    r.add(keys), r.add(kept), r.add(grad);
    return r;
  };
  pairwise_keys(Dtype::kFloat32, Metric::kEuclidean, shape, x.data(), keys.data(), 1);
  filter_keeps(Dtype::kFloat32, shape, x.data(), 0.5, kept.data());
  fail_each(
      {"pairwise_keys",
       [&] { pairwise_keys(Dtype::kFloat32, Metric::kEuclidean, shape, x.data(), keys.data(), 3); },
       result});
  fail_each({"filter_keeps",
             [&] { filter_keeps(Dtype::kFloat32, shape, x.data(), 0.5, kept.data()); }, result});
  fail_each({"scale_free_loss",
             [&] {
               scale_free_loss(Dtype::kFloat32, shape, keys.data(), 1, 1, 0.5,
                               {loss.data(), grad.data()});
             },
             result});
}

template <class T>
void shards(const char* name, int64_t dim, double scale, int threads) {
  const int64_t n = 70;
  Array<T> x = cloud<T>(n * dim, scale, 4);
  Array<T> deaths(n - 1);
  Array<int64_t> edges(2 * n - 2);
  const auto result = [&] {
    Result r;
    r.add(deaths), r.add(edges);
    return r;
  };
  fail_each({name,
             [&] {
               fuzz::Edges tree;
               fuzz::sharded_h0<T, T>(Metric::kEuclidean, x.data(), n, dim, {0, 30, 30, n}, threads,
                                      deaths.data(), edges.data(), &tree);
             },
             result});
}

// Sizes that cannot be had: refused before anything is touched, with the bytes it would take.
void too_large() {
  const auto refused = [](const char* words, const std::function<void()>& call) {
    try {
      call();
    } catch (const std::exception& error) {
      if (std::string(error.what()).find(words) != std::string::npos) return;
      std::printf("expected '%s', got '%s'\n", words, error.what());
    }
    good = false;
  };
  const int64_t many = int64_t{1} << 31;
  refused("147573952589676412928 bytes",
          [&] { Buffer<double>().reserve(int64_t{1} << 33, int64_t{1} << 31); });
  refused("fewer than 2**31", [&] {
    h0_forward(Dtype::kFloat32, Metric::kEuclidean, {1, many, 0}, nullptr, nullptr, nullptr, 1);
  });
}

void all_cases(int threads) {
  const auto way = [](Path path, int coded = -1, int64_t wave = 0) {
    Overrides o;
    o.path = path;
    o.coded = coded;
    o.wave_one_in = wave;
    return o;
  };
  using Path = tsloss::Path;
  const Metric l2 = Metric::kEuclidean;
  forward_and_backward<float>("tiles", l2, 40, 30, 1, way(Path::kSmall), threads);
  forward_and_backward<double>("panels", l2, 40, 5, 1, way(Path::kPacked), threads);
  forward_and_backward<float>("codes", l2, 100, 20, 1, way(Path::kLarge, 1, 2), threads);
  forward_and_backward<double>("distances", l2, 100, 3, 1, way(Path::kLarge, 0, 2), threads);
  forward_and_backward<float>("k-d tree", l2, 100, 3, 1, way(Path::kSpatial), threads);
  forward_and_backward<float>("robust k-d tree", l2, 100, 2, 1e-30, way(Path::kSpatial), threads);
  forward_and_backward<float>("robust", l2, 30, 20, 1e-30, way(Path::kAuto), threads);
  forward_and_backward<float>("cosine", Metric::kCosine, 30, 7, 1, way(Path::kAuto), threads);
  forward_and_backward<double>("manhattan", Metric::kManhattan, 110, 4, 1, way(Path::kAuto),
                               threads, true);
  matrices(40, 1e-12, threads);
  matrices(257, 0, threads);
  shards<float>("shards by codes", 20, 1, threads);
  shards<double>("shards by distances", 3, 1, threads);
  shards<float>("robust shards", 5, 1e-30, threads);
}

}  // namespace

int main() {
  no_threads = true;
  Array<double> x = cloud<double>(200 * 20, 1.0, 5);
  Array<double> alone(199), expected(199);
  Array<int64_t> edges(398);
  const BatchShape shape{1, 200, 20};
  h0_forward(Dtype::kFloat64, Metric::kEuclidean, shape, x.data(), alone.data(), edges.data(), 4);
  no_threads = false;
  h0_forward(Dtype::kFloat64, Metric::kEuclidean, shape, x.data(), expected.data(), edges.data(),
             4);
  if (!(alone == expected)) good = false, std::puts("without threads: different bits");
  too_large();
  all_cases(1);
  others();
  all_cases(3);
  if (good) std::printf("no failed allocation of %ld does harm\n", tried);
  return good ? 0 : 1;
}
