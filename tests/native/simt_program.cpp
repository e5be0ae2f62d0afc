// Runs all CUDA kernels on the host executor, under sanitizers, and prints what came out. See
// tests/gpu/test_cuda_programs.py.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "simt_kernels.h"

namespace {

uint64_t state, digest;

double random_number() {  // roughly normal
  double sum = -6;
  for (int k = 0; k < 12; ++k) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    sum += static_cast<double>(state >> 11) * 0x1p-53;
  }
  return sum;
}

template <class T>
void mix(const std::vector<T>& values) {
  const unsigned char* bytes = reinterpret_cast<const unsigned char*>(values.data());
  for (size_t k = 0; k < values.size() * sizeof(T); ++k) {
    digest = (digest ^ bytes[k]) * 1099511628211u;
  }
}

float as(double x, float) { return static_cast<float>(x); }
double as(double x, double) { return x; }
Half as(double x, Half h) { return narrow(static_cast<float>(x), h); }
BFloat16 as(double x, BFloat16 h) { return narrow(static_cast<float>(x), h); }

enum Kind { kNormal, kGrid, kCopies, kWide, kHuge, kBad };

[[noreturn]] void give_up() {
  std::printf("error: %s\n", message.c_str());
  std::exit(3);
}

template <class P, class D>
void run_cloud(int dtype, int metric, int64_t n, int64_t dim, int kind, const Device& device,
               int64_t batch) {
  const int64_t bars = n - 1;
  std::vector<P> x(static_cast<size_t>(batch * n * dim)), grad_x(x.size());
  for (size_t k = 0; k < x.size(); ++k) {
    double value = random_number();
    if (kind == kGrid) value = std::round(value) + 8;
    if (kind == kCopies && k >= static_cast<size_t>(2 * dim)) {
      x[k] = x[k - 2 * dim];
      continue;
    }
    if (kind == kWide) value *= k % 3 ? 1e-200 : 1e200;
    if (kind == kHuge) value *= 1e16;
    if (kind == kBad && k == 5) value = metric == 2 ? NAN : INFINITY;
    x[k] = as(value, P{});
  }
  const std::vector<int64_t> lengths{n, n - 3};
  std::vector<D> deaths(static_cast<size_t>(batch * bars)), grad(deaths.size());
  for (D& g : grad) g = static_cast<D>(random_number());
  std::vector<int64_t> edges(2 * deaths.size()), findings(static_cast<size_t>(3 * batch));
  if (forward(dtype, metric, batch, n, dim, x.data(), lengths.data(), deaths.data(), edges.data(),
              findings.data(), device.processors, device.shared_of_block, device.small,
              device.stored, device.fused) ||
      backward(dtype, metric, batch, n, dim, grad.data(), x.data(), deaths.data(), edges.data(),
               grad_x.data(), device.small)) {
    give_up();
  }
  mix(deaths);
  mix(edges);
  mix(findings);
  mix(grad_x);
}

void run_kind(int dtype, int metric, int64_t n, int64_t dim, int kind, const Device& device,
              int64_t batch = 2) {
  with_type(dtype, [&](auto number, auto death) {
    run_cloud<decltype(number), decltype(death)>(dtype, metric, n, dim, kind, device, batch);
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
    give_up();
  }
  mix(deaths);
  mix(edges);
  mix(findings);
}

constexpr int64_t kRoom = 99 << 10;

// Clouds of a block each, whose points are read once: by blocks of their own, or by that of the
// tree.
void fused_clouds(int dtype) {
  for (const int processors : {1, 40}) {
    const Device device{processors, kRoom};
    const int64_t dim = processors == 1 ? 136 : 131;  // rows begin at multiples of 16 bytes, or not
    for (int metric = 0; metric < 4; ++metric) run_kind(dtype, metric, 9, dim, kNormal, device);
    run_kind(dtype, 0, 12, 2, kGrid, device);
    run_kind(dtype, 0, 7, 3, kBad, device);
  }
}
// Clouds of a block each, whose keys other blocks have stored.
void stored_clouds(int dtype) {
  const Device in_shared{1, kRoom, kSmallCloud, 8192, 0}, outside{8, 0, kSmallCloud, 8192, 0};
  run_kind(dtype, 0, 9, 35, kNormal, in_shared);
  run_kind(dtype, 1, 9, 35, kNormal, in_shared);
  run_kind(dtype, 0, 12, 2, kGrid, outside);
  run_kind(dtype, 0, 7, 3, kBad, in_shared);
  run_kind(dtype, 3, 6, 300, kNormal, outside);
}
void forests(int dtype, int64_t stored) {
  const Device device{1, kRoom, 2, stored};
  run_kind(dtype, 0, 12, 35, kNormal, device);
  run_kind(dtype, 0, 10, 2, kGrid, device);
  run_kind(dtype, 0, 7, 3, kBad, device);
}
void matrices(int64_t small) {
  for (int bad : {0, 1, 3}) {
    run_matrix<float>(0, bad ? 12 : 34, small, bad);
    run_matrix<double>(1, 8, small, bad);
  }
}

// ThreadSanitizer can tell only so many threads of one process apart.
std::vector<std::function<void()>> all_cases() {
  std::vector<std::function<void()>> cases;
  for (int dtype = 0; dtype < 4; ++dtype) {
    cases.push_back([=] { fused_clouds(dtype); });
    cases.push_back([=] { stored_clouds(dtype); });
  }
  cases.push_back([] { run_kind(0, 0, 45, 37, kNormal, {1, kRoom}, 1); });
  cases.push_back([] { run_kind(0, 0, 70, 3, kCopies, {1, kRoom}, 1); });
  cases.push_back([] { run_kind(1, 1, 7, 260, kWide, {8, kRoom}); });
  cases.push_back([] { run_kind(1, 0, 7, 260, kWide, {8, kRoom}); });
  cases.push_back([] { run_kind(0, 0, 11, 140, kHuge, {8, kRoom}); });
  cases.push_back([] { run_kind(0, 0, 97, 224, kNormal, {7, kRoom}, 1); });
  for (int dtype = 0; dtype < 2; ++dtype) {
    for (const int64_t stored : {0, 8192}) cases.push_back([=] { forests(dtype, stored); });
  }
  cases.push_back([] { run_kind(0, 0, 66, 2, kNormal, {1, kRoom, 2, 0}, 1); });
  cases.push_back([] { run_kind(0, 0, 132, 1, kGrid, {1, kRoom, 2, 8192}, 1); });
  for (const int64_t small : {2, 512}) cases.push_back([=] { matrices(small); });
  return cases;
}

}  // namespace

// Arguments: order, seed, preempt, fill, the place of a dropped barrier or "", and a case or -1.
// Prints a line for each case, and the places of barriers.
int main(int count, char** arguments) {
  if (count != 7) return 2;
  const auto number = [&](int k) { return std::atoi(arguments[k]); };
  set_options(number(1), static_cast<uint64_t>(number(2)), number(3), 2, number(4));
  simt::options.switches = simt::Options().switches;  // no case is a large cloud
  simt::options.drop = arguments[5];
  const auto cases = all_cases();
  for (size_t k = 0; k < cases.size(); ++k) {
    if (number(6) >= 0 && static_cast<size_t>(number(6)) != k) continue;
    state = 1;
    digest = 14695981039346656037u;
    cases[k]();
    std::printf("case %zu %016llx\n", k, static_cast<unsigned long long>(digest));
    std::fflush(stdout);
  }
  for (const std::string& site : simt::barrier_sites()) std::printf("barrier %s\n", site.c_str());
}
