// The different points of a cloud: copies of a point are found before the tree is built.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "cpu/rows.h"
#include "cpu/runtime/buffer.h"
#include "cpu/runtime/random.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/tree/tree.h"

namespace tsloss {

// A hash of the bytes of a row. It folds the two halves of a 128-bit product, so that every bit of
// a word affects every bit of the hash; a plain product would lose the top bits, which are the
// signs.
inline uint64_t hash_row(const void* row, int64_t bytes) {
  const char* at = static_cast<const char*>(row);
  uint64_t h[4] = {1, 2, 3, 4};
  for (int64_t k = 0; k + 32 <= bytes; k += 32) {
    for (int l = 0; l < 4; ++l) {
      uint64_t word;
      std::memcpy(&word, at + k + 8 * l, 8);
      const unsigned __int128 product = (unsigned __int128)(h[l] ^ word) * 0x9e3779b97f4a7c15u;
      h[l] = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64) ^ word;
    }
  }
  return Random{h[0] + 3 * h[1] + 5 * h[2] + 7 * h[3]}();
}

template <class T>
struct Distinct {
  Finding finding;           // the first bad point, if any; then the other members are not set
  std::vector<int32_t> ids;  // the first copy of each point, ascending
  T largest = 0;             // the largest |coordinate|
  bool lattice = false;      // see is_lattice_row
};

// Finds the different points, and joins the copies of each to the first of them by edges of length
// 0, which are those of the tree by the tie rule. load(i, x) writes point i to an aligned and
// padded row, and returns the problem of the point, if there is one.
template <class T, class Load>
Distinct<T> find_distinct(int64_t n, int64_t stride, int threads, const Load& load,
                          std::vector<Edge<double>>& joined) {
  constexpr int64_t kGrain = 48;
  Distinct<T> result;
  std::vector<uint64_t> hash(static_cast<size_t>(n));
  std::mutex mutex;
  const int64_t tasks = (n + kGrain - 1) / kGrain;
  std::vector<T> largest(static_cast<size_t>(tasks), T{0});
  std::vector<char> lattice(static_cast<size_t>(tasks), 1);
  parallel_for(tasks, threads, [&](int64_t task, int) {
    Buffer<T> buffer;
    T most = 0;
    T* x = buffer.reserve(stride);
    for (int64_t i = task * kGrain; i < std::min(n, (task + 1) * kGrain); ++i) {
      const Problem problem = load(i, x);
      if (problem != Problem::kNone) {
        std::lock_guard<std::mutex> lock(mutex);
        Finding& first = result.finding;
        if (first.problem == Problem::kNone || i < first.i) first = {problem, 0, i, -1};
      }
#pragma omp simd reduction(max : most)
      for (int64_t k = 0; k < stride; ++k) {
        x[k] += T{0};  // turns -0 into 0, which is an equal coordinate
        const T size = std::fabs(x[k]);
        most = size > most ? size : most;
      }
      hash[i] = hash_row(x, stride * static_cast<int64_t>(sizeof(T)));
      lattice[task] = lattice[task] && is_lattice_row(x, stride);
    }
    largest[task] = most;
  });
  if (result.finding.problem != Problem::kNone) return result;
  result.lattice = std::find(lattice.begin(), lattice.end(), 0) == lattice.end();
  result.largest = tasks > 0 ? *std::max_element(largest.begin(), largest.end()) : T{0};
  std::vector<std::pair<uint64_t, int32_t>> sorted(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) sorted[i] = {hash[i], static_cast<int32_t>(i)};
  std::sort(sorted.begin(), sorted.end());
  std::vector<char> copy(static_cast<size_t>(n), 0);
  Buffer<T> first_buffer, buffer;
  T* first = first_buffer.reserve(stride);
  T* x = buffer.reserve(stride);
  for (size_t begin = 0; begin < sorted.size();) {
    size_t end = begin + 1;
    while (end < sorted.size() && sorted[end].first == sorted[begin].first) ++end;
    const size_t next = end;
    // Points of one hash need not be equal: each round joins the copies of the first point and
    // leaves the other points to the next round.
    while (end - begin > 1) {
      const int32_t original = sorted[begin].second;
      load(original, first);
      size_t others = ++begin;
      for (size_t k = begin; k < end; ++k) {
        const int32_t i = sorted[k].second;
        load(i, x);
        if (std::equal(x, x + stride, first)) {
          copy[i] = 1;
          joined.push_back({0.0, original, i});
        } else {
          sorted[others++] = sorted[k];
        }
      }
      end = others;
    }
    begin = next;
  }
  result.ids.resize(static_cast<size_t>(n));
  std::iota(result.ids.begin(), result.ids.end(), 0);
  result.ids.erase(
      std::remove_if(result.ids.begin(), result.ids.end(), [&](int32_t i) { return copy[i] != 0; }),
      result.ids.end());
  return result;
}

}  // namespace tsloss
