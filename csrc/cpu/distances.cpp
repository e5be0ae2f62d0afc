// Distance matrices -> deaths and critical edges.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/output.h"
#include "cpu/thread_pool.h"
#include "cpu/tree.h"

namespace tsloss {
namespace {

constexpr int64_t kBlock = 32;  // a 32 x 32 block and its mirror image stay in L1

// Checks the valid n x n part in one blocked pass. Sets *symmetric if it is so to the last bit.
template <class T>
Finding check_matrix(const T* d, int64_t stride, int64_t n, double tolerance, bool* symmetric) {
  *symmetric = true;
  for (int64_t i = 0; i < n; ++i) {
    const T* row = d + i * stride;
    if (kernels<T>().all_finite(row, n)) continue;
    const T* bad = std::find_if(row, row + n, [](T v) { return !std::isfinite(v); });
    return {Problem::kNonFinite, 0, i, bad - row};
  }
  for (int64_t ib = 0; ib < n; ib += kBlock) {
    for (int64_t jb = ib; jb < n; jb += kBlock) {
      for (int64_t i = ib; i < std::min(n, ib + kBlock); ++i) {
        for (int64_t j = std::max(i, jb); j < std::min(n, jb + kBlock); ++j) {
          const T a = d[i * stride + j];
          const T b = d[j * stride + i];
          if (i == j) {
            if (a != 0) return {Problem::kDiagonal, 0, i, i};
            continue;
          }
          if (a < 0) return {Problem::kNegative, 0, i, j};
          if (b < 0) return {Problem::kNegative, 0, j, i};
          if (a == b) continue;
          *symmetric = false;
          const double gap = std::fabs(double(a) - double(b));
          if (!(gap <= tolerance * std::max(a, b))) return {Problem::kAsymmetric, 0, i, j};
        }
      }
    }
  }
  return {};
}

template <class T>
Finding from_distances(const BatchShape& shape, const T* distances, double tolerance, T* deaths,
                       int64_t* edges, int threads) {
  std::vector<PrimScratch<T>> scratch(static_cast<size_t>(threads));
  std::vector<Buffer<T>> means(static_cast<size_t>(threads));
  std::vector<std::vector<Edge<T>>> results(static_cast<size_t>(threads));
  FindingLog log;
  parallel_for(shape.batch, threads, [&](int64_t cloud, int slot) {
    const int64_t n = shape.valid(cloud);
    int64_t stride = shape.points;
    const T* d = distances + cloud * stride * stride;
    Output<T> out(deaths, edges, shape.bars(), cloud);
    out.fill_padding(n);
    bool symmetric = true;
    const Finding found = check_matrix(d, stride, n, tolerance, &symmetric);
    if (found.problem != Problem::kNone) {
      log.add(found, cloud);
      out.fill_nan(n);
      return;
    }
    if (n < 2) return;
    if (!symmetric) {
      T* mean = means[slot].reserve(checked_mul(n, n));
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          mean[i * n + j] = T(0.5) * d[i * stride + j] + T(0.5) * d[j * stride + i];
        }
      }
      d = mean;
      stride = n;
    }
    results[slot].resize(static_cast<size_t>(n - 1));
    prim_dense(d, stride, n, T{1}, scratch[slot], results[slot].data());
    std::sort(results[slot].begin(), results[slot].end());
    out.write(results[slot]);
  });
  return log.first();
}

}  // namespace

Finding h0_from_distances(Dtype dtype, const BatchShape& shape, const void* distances,
                          double symmetry_tolerance, void* deaths, int64_t* edges, int threads) {
  if (dtype == Dtype::kFloat64) {
    return from_distances(shape, static_cast<const double*>(distances), symmetry_tolerance,
                          static_cast<double*>(deaths), edges, threads);
  }
  return from_distances(shape, static_cast<const float*>(distances), symmetry_tolerance,
                        static_cast<float*>(deaths), edges, threads);
}

}  // namespace tsloss
