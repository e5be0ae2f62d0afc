// The CUDA kernels on the host executor: a library for ctypes (cuda_host.py), and a program for the
// sanitizers that runs all kernels and prints what came out. See test_cuda_kernels.py.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "cuda/plan.cuh"

namespace {

using tsloss::BatchShape;
using tsloss::Metric;
using namespace tsloss::cuda;

std::string message;

struct HostLaunch {
  template <class... P, class... A>
  void operator()(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, int64_t shared,
                  A&&... arguments) {
    try {
      simt::launch(kernel, grid, block, static_cast<size_t>(shared), arguments...);
    } catch (const std::exception& error) {
      throw std::runtime_error(std::string("kernel ") + name + ": " + error.what());
    }
  }
};

// Workspace of its exact size, which holds junk.
struct Workspace {
  explicit Workspace(int64_t bytes) : memory(std::malloc(static_cast<size_t>(bytes) + 1)) {
    std::memset(memory, simt::options.fill, static_cast<size_t>(bytes) + 1);
  }
  ~Workspace() { std::free(memory); }
  void* memory;
};

template <class F>
int guarded(F&& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    message = error.what();
    return 1;
  }
}

template <class F>
void with_type(int dtype, F&& body) {
  if (dtype == 0) body(float{}, float{});
  if (dtype == 1) body(double{}, double{});
  if (dtype == 2) body(Half{}, float{});
  if (dtype == 3) body(BFloat16{}, float{});
}

}  // namespace

extern "C" {

const char* last_message() { return message.c_str(); }

void set_options(int order, uint64_t seed, int preempt, int resident, int drop_barrier, int fill) {
  simt::options.order = static_cast<simt::Order>(order);
  simt::options.seed = seed;
  simt::options.preempt = static_cast<unsigned>(preempt);
  simt::options.resident = static_cast<unsigned>(resident);
  simt::options.drop_barrier = drop_barrier;
  simt::options.fill = static_cast<unsigned char>(fill);
  simt::options.stack_bytes = size_t{128} << 10;
#ifndef SIMT_PROGRAM
  simt::options.switches = uint64_t{1} << 32;  // large clouds are no livelock
#endif
}

int barrier_count() { return static_cast<int>(simt::barrier_sites().size()); }
const char* barrier_site(int k) {
  static std::string site;
  site = simt::barrier_sites()[static_cast<size_t>(k)];
  return site.c_str();
}
void forget_barriers() { simt::forget_barrier_sites(); }

int forward(int dtype, int metric, int64_t batch, int64_t points, int64_t dim, const void* x,
            const int64_t* lengths, void* deaths, int64_t* edges, int64_t* findings, int processors,
            int64_t shared, int64_t small, int64_t stored) {
  return guarded([&] {
    const BatchShape shape{batch, points, dim, lengths};
    const Device device{processors, shared, small, stored};
    with_type(dtype, [&](auto number, auto death) {
      using P = decltype(number);
      using D = decltype(death);
      HostLaunch launch;
      const P* in = static_cast<const P*>(x);
      const Outputs<D> out{static_cast<D*>(deaths), edges, findings};
      const Metric m = static_cast<Metric>(metric);
      const Workspace work(h0_forward(launch, m, shape, device, in, out, nullptr));
      h0_forward(launch, m, shape, device, in, out, work.memory);
    });
  });
}

int from_distances(int dtype, int64_t batch, int64_t points, const void* distances,
                   const int64_t* lengths, double tolerance, void* deaths, int64_t* edges,
                   int64_t* findings, int64_t shared, int64_t small) {
  return guarded([&] {
    const BatchShape shape{batch, points, 0, lengths};
    const Device device{4, shared, small};
    const auto run = [&](auto number) {
      using P = decltype(number);
      HostLaunch launch;
      const P* in = static_cast<const P*>(distances);
      const Outputs<P> out{static_cast<P*>(deaths), edges, findings};
      const Workspace work(h0_from_distances(launch, shape, device, in, tolerance, out, nullptr));
      h0_from_distances(launch, shape, device, in, tolerance, out, work.memory);
    };
    if (dtype == 0) run(float{});
    if (dtype == 1) run(double{});
  });
}

int backward(int dtype, int metric, int64_t batch, int64_t points, int64_t dim, const void* grad,
             const void* x, const void* deaths, const int64_t* edges, void* out) {
  return guarded([&] {
    const BatchShape shape{batch, points, dim, nullptr};
    with_type(dtype, [&](auto number, auto death) {
      using P = decltype(number);
      using D = decltype(death);
      HostLaunch launch;
      const auto call = [&](void* workspace) {
        return h0_backward(launch, static_cast<Metric>(metric), shape, static_cast<const D*>(grad),
                           static_cast<const P*>(x), static_cast<const D*>(deaths), edges,
                           static_cast<P*>(out), workspace);
      };
      const Workspace work(call(nullptr));
      call(work.memory);
    });
  });
}

}  // extern "C"

#ifdef SIMT_PROGRAM
namespace {

uint64_t state = 1;
double random_number() {  // roughly normal
  double sum = -6;
  for (int k = 0; k < 12; ++k) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    sum += static_cast<double>(state >> 11) * 0x1p-53;
  }
  return sum;
}

uint64_t digest = 14695981039346656037u;
void mix(const void* data, size_t bytes) {
  for (size_t k = 0; k < bytes; ++k) {
    digest = (digest ^ static_cast<const unsigned char*>(data)[k]) * 1099511628211u;
  }
}
template <class T>
void mix(const std::vector<T>& values) {
  mix(values.data(), values.size() * sizeof(T));
}

float as(double x, float) { return static_cast<float>(x); }
double as(double x, double) { return x; }
Half as(double x, Half h) { return narrow(static_cast<float>(x), h); }
BFloat16 as(double x, BFloat16 h) { return narrow(static_cast<float>(x), h); }

enum Kind { kNormal, kGrid, kCopies, kWide, kBad };

template <class P, class D>
void run_cloud(int dtype, int metric, int64_t n, int64_t dim, int kind, int processors,
               int64_t shared, int64_t small, int64_t stored) {
  const int64_t batch = 2, bars = n - 1;
  std::vector<P> x(static_cast<size_t>(batch * n * dim)), grad_x(x.size());
  for (size_t k = 0; k < x.size(); ++k) {
    double value = random_number();
    if (kind == kGrid) value = std::round(value) + 8;
    if (kind == kCopies && k >= static_cast<size_t>(2 * dim)) {
      x[k] = x[k - 2 * dim];
      continue;
    }
    if (kind == kWide) value *= k % 3 ? 1e-200 : 1e200;
    if (kind == kBad && k == 5) value = metric == 2 ? NAN : INFINITY;
    x[k] = as(value, P{});
  }
  const std::vector<int64_t> lengths{n, n - 3};
  std::vector<D> deaths(static_cast<size_t>(batch * bars)), grad(deaths.size());
  for (D& g : grad) g = static_cast<D>(random_number());
  std::vector<int64_t> edges(2 * deaths.size()), findings(6);
  if (forward(dtype, metric, batch, n, dim, x.data(), lengths.data(), deaths.data(), edges.data(),
              findings.data(), processors, shared, small, stored) ||
      backward(dtype, metric, batch, n, dim, grad.data(), x.data(), deaths.data(), edges.data(),
               grad_x.data())) {
    std::printf("error: %s\n", message.c_str());
    std::exit(3);
  }
  mix(deaths);
  mix(edges);
  mix(findings);
  mix(grad_x);
}

void run_kind(int dtype, int metric, int64_t n, int64_t dim, int kind, int processors,
              int64_t shared, int64_t small = kSmallCloud, int64_t stored = 8192) {
  with_type(dtype, [&](auto number, auto death) {
    run_cloud<decltype(number), decltype(death)>(dtype, metric, n, dim, kind, processors, shared,
                                                 small, stored);
  });
}

// Entries that are whole numbers, with ties; `bad` of them wrong.
template <class P>
void run_matrix(int dtype, int64_t n, int64_t small, int bad) {
  std::vector<P> d(static_cast<size_t>(n * n)), deaths(static_cast<size_t>(n - 1));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) {
      d[i * n + j] = d[j * n + i] = static_cast<P>(std::round(std::fabs(random_number()) * 9));
    }
  }
  for (int k = 0; k < bad; ++k) d[(k * 7 + 3) % (n * n)] = static_cast<P>(-k);
  if (bad > 2) d[5] = NAN;
  std::vector<int64_t> edges(2 * deaths.size()), findings(3);
  if (from_distances(dtype, 1, n, d.data(), nullptr, 1e-5, deaths.data(), edges.data(),
                     findings.data(), 99 << 10, small)) {
    std::printf("error: %s\n", message.c_str());
    std::exit(3);
  }
  mix(deaths);
  mix(edges);
  mix(findings);
}

}  // namespace

// order, seed, preempt, dropped barrier, fill
int main(int count, char** arguments) {
  if (count != 6) return 2;
  const auto number = [&](int k) { return std::atoi(arguments[k]); };
  set_options(number(1), static_cast<uint64_t>(number(2)), number(3), 2, number(4), number(5));
  const int64_t room = 99 << 10;
  for (int dtype = 0; dtype < 4; ++dtype) {
    for (int metric = 0; metric < 4; ++metric) {
      run_kind(dtype, metric, 9, 35, kNormal, 1, room);
    }
    run_kind(dtype, 0, 12, 2, kGrid, 1, 0);
    run_kind(dtype, 0, 7, 3, kBad, 1, room);
  }
  run_kind(0, 0, 70, 3, kCopies, 1, room);
  run_kind(0, 2, 10, 2, kGrid, 1, room);
  run_kind(1, 1, 7, 260, kWide, 8, room);
  run_kind(0, 3, 6, 300, kNormal, 8, 0);
  for (int dtype = 0; dtype < 2; ++dtype) {
    for (const int64_t stored : {0, 8192}) {
      run_kind(dtype, 0, 20, 35, kNormal, 1, room, 2, stored);
      run_kind(dtype, 0, 14, 2, kGrid, 1, room, 2, stored);
      run_kind(dtype, 3, 70, 2, kNormal, 1, room, 2, stored);
    }
    run_kind(dtype, 0, 7, 3, kBad, 1, room, 2, 0);
  }
  run_kind(0, 1, 9, 3, kNormal, 1, room, 2, 0);
  run_kind(0, 0, 270, 1, kNormal, 1, room, 2, 8192);
  for (const int64_t small : {2, 512}) {
    for (int bad : {0, 1, 3}) {
      run_matrix<float>(0, 35, small, bad);
      run_matrix<double>(1, 12, small, bad);
    }
  }
  std::printf("%016llx\n", static_cast<unsigned long long>(digest));
  for (const std::string& site : simt::barrier_sites()) std::printf("%s\n", site.c_str());
}
#endif
