// Distance matrices -> deaths and critical edges.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/output.h"
#include "cpu/thread_pool.h"
#include "cpu/tree.h"

namespace tsloss {
namespace {

constexpr int64_t kParallelEntries = 1 << 18;
constexpr int64_t kOneRead = 256;  // smaller matrices stay in a near cache between two reads
constexpr int64_t kBlock = 32;     // a 32 x 32 block and its mirror image stay in L1

struct Checked {
  Finding not_finite;
  Finding other;
  bool symmetric = true;
};

// The entries (i, j) and (j, i) of one block row, j >= i, that are not plainly good.
template <class T>
void check_entries(const T* d, int64_t stride, int64_t i_begin, int64_t i_end, int64_t j_begin,
                   int64_t j_end, double tolerance, Checked& out) {
  const auto note = [](Finding& finding, Problem problem, int64_t i, int64_t j) {
    if (finding.problem == Problem::kNone) finding = {problem, 0, i, j};
  };
  for (int64_t i = i_begin; i < i_end; ++i) {
    for (int64_t j = std::max(i, j_begin); j < j_end; ++j) {
      const T a = d[i * stride + j];
      const T b = d[j * stride + i];
      if (!std::isfinite(a)) {
        note(out.not_finite, Problem::kNonFinite, i, j);
      } else if (!std::isfinite(b)) {
        note(out.not_finite, Problem::kNonFinite, j, i);
      } else if (i == j) {
        if (a != 0) note(out.other, Problem::kDiagonal, i, i);
      } else if (a < 0) {
        note(out.other, Problem::kNegative, i, j);
      } else if (b < 0) {
        note(out.other, Problem::kNegative, j, i);
      } else if (a != b) {
        out.symmetric = false;
        const double gap = std::fabs(double(a) - double(b));
        if (!(gap <= tolerance * std::max(a, b))) note(out.other, Problem::kAsymmetric, i, j);
      }
    }
  }
}

template <class T>
Checked check_block_row(const T* d, int64_t stride, int64_t n, int64_t ib, double tolerance) {
  Checked out;
  const auto mirrored = kernels<T>().mirrored;
  const int64_t i_end = std::min(n, ib + kBlock);
  for (int64_t jb = ib; jb < n; jb += kBlock) {
    const int64_t j_end = std::min(n, jb + kBlock);
    for (int64_t i = ib; i < i_end; i += 8) {
      for (int64_t j = jb; j < j_end; j += 8) {
        if (j + 8 <= i) continue;
        const bool whole = i + 8 <= n && j + 8 <= n && i != j;
        if (whole && mirrored(d + i * stride + j, d + j * stride + i, stride)) continue;
        check_entries(d, stride, i, std::min(n, i + 8), j, std::min(n, j + 8), tolerance, out);
      }
    }
  }
  return out;
}

// Checks the valid n x n part in one blocked pass. Sets *symmetric if it is so to the last bit.
template <class T>
Finding check_matrix(const T* d, int64_t stride, int64_t n, double tolerance, int threads,
                     bool* symmetric) {
  const int64_t tasks = (n + kBlock - 1) / kBlock;
  std::vector<Checked> found(static_cast<size_t>(tasks));
  parallel_for(tasks, n * n < kParallelEntries ? 1 : threads, [&](int64_t task, int) {
    found[task] = check_block_row(d, stride, n, task * kBlock, tolerance);
  });
  Finding first;
  *symmetric = true;
  for (const Checked& c : found) {
    *symmetric = *symmetric && c.symmetric;
    if (c.not_finite.problem != Problem::kNone) return c.not_finite;
    if (first.problem == Problem::kNone) first = c.other;
  }
  return first;
}

// Odd, and without a pattern.
uint32_t weight_of(int64_t j) {
  uint64_t z = (static_cast<uint64_t>(j) + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 32)) * 0xbf58476d1ce4e5b9u;
  return static_cast<uint32_t>(z >> 32) | 1;
}

template <class T>
struct Scratch {
  PrimScratch<T> prim;
  Buffer<T> mean;
  Buffer<uint32_t> hashes;
  std::vector<Edge<T>> edges;
};

// The tree by one read of a matrix that is symmetric to the last bit, each row being checked just
// before it is used. False: it is not, or something is wrong with it.
template <class T>
bool tree_by_one_read(const T* d, int64_t stride, int64_t n, Scratch<T>& s) {
  // Most matrices that are not, show it here.
  const Checked top = check_block_row(d, stride, n, 0, 0.0);
  if (!top.symmetric || top.not_finite.problem != Problem::kNone ||
      top.other.problem != Problem::kNone) {
    return false;
  }
  uint32_t* weights = s.hashes.reserve(3 * n);
  uint32_t* columns = weights + n;
  uint32_t* rows = columns + n;
  for (int64_t j = 0; j < n; ++j) weights[j] = weight_of(j);
  std::fill_n(columns, n, 0u);
  const auto hash_row = kernels<T>().hash_row;
  const auto look = [&](int64_t u) {
    const T* row = d + u * stride;
    return hash_row(row, n, weights[u], weights, columns, rows + u) && row[u] == 0;
  };
  return prim_dense(d, stride, n, T{1}, s.prim, s.edges.data(), look) != Prim::kIncomplete &&
         std::equal(rows, rows + n, columns);
}

template <class T>
Finding from_distances(const BatchShape& shape, const T* distances, double tolerance, T* deaths,
                       int64_t* edges, int threads) {
  std::vector<Scratch<T>> scratch(static_cast<size_t>(threads));
  FindingLog log;
  const int inner = shape.batch < threads ? threads : 1;
  parallel_for(shape.batch, inner > 1 ? 1 : threads, [&](int64_t cloud, int slot) {
    const int64_t n = shape.valid(cloud);
    int64_t stride = shape.points;
    const T* d = distances + cloud * stride * stride;
    Output<T> out(deaths, edges, shape, cloud);
    out.fill_padding(n);
    Scratch<T>& s = scratch[slot];
    s.edges.resize(static_cast<size_t>(std::max<int64_t>(n - 1, 0)));
    if (n >= kOneRead && inner <= 2 && tree_by_one_read(d, stride, n, s)) {
      std::sort(s.edges.begin(), s.edges.end());
      out.write(s.edges);
      return;
    }
    bool symmetric = true;
    const Finding found = check_matrix(d, stride, n, tolerance, inner, &symmetric);
    if (found.problem != Problem::kNone) {
      log.add(found, cloud);
      out.fill_nan(n);
      return;
    }
    if (n < 2) return;
    if (!symmetric) {
      T* mean = s.mean.reserve(n, n);
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          mean[i * n + j] = T(0.5) * d[i * stride + j] + T(0.5) * d[j * stride + i];
        }
      }
      d = mean;
      stride = n;
    }
    prim_dense(d, stride, n, T{1}, s.prim, s.edges.data());
    std::sort(s.edges.begin(), s.edges.end());
    out.write(s.edges);
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
