// Deaths and critical edges of distance matrices.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/output.h"
#include "cpu/runtime/random.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/tree/tree.h"

namespace tsloss {
namespace {

constexpr int64_t kParallelEntries = 1 << 18;
constexpr int64_t kOneRead = 256;  // smaller matrices stay in a near cache and are read twice
constexpr int64_t kBlock = 32;     // a 32 x 32 block and its mirror image stay in L1

struct Checked {
  Finding not_a_number;
  Finding other;
  bool symmetric = true;
  bool infinite = false;  // there are infinite distances
};

// Checks the entries (i, j) and (j, i) of one block, j >= i, and notes what is wrong with them.
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
      if (std::isnan(a)) {
        note(out.not_a_number, Problem::kNonFinite, i, j);
      } else if (std::isnan(b)) {
        note(out.not_a_number, Problem::kNonFinite, j, i);
      } else if (i == j) {
        if (a != 0) note(out.other, Problem::kDiagonal, i, i);
      } else if (a < 0) {
        note(out.other, Problem::kNegative, i, j);
      } else if (b < 0) {
        note(out.other, Problem::kNegative, j, i);
      } else if (a != b) {
        out.symmetric = false;
        const double gap = std::fabs(double(a) - double(b));
        if (!(gap <= tolerance * std::max(a, b)) || std::isinf(gap)) {
          note(out.other, Problem::kAsymmetric, i, j);
        }
      } else if (std::isinf(a)) {
        out.infinite = true;
      }
    }
  }
}

// Checks rows [ib, ib + kBlock) of the upper triangle and their mirror images. Most 8 x 8 blocks
// are good, which a kernel finds at once; the others are checked entry by entry.
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

// Checks the valid n x n part in one blocked pass. `other` is then the first problem of any kind.
template <class T>
Checked check_matrix(const T* d, int64_t stride, int64_t n, double tolerance, int threads) {
  const int64_t tasks = (n + kBlock - 1) / kBlock;
  std::vector<Checked> found(static_cast<size_t>(tasks));
  parallel_for(tasks, n * n < kParallelEntries ? 1 : threads, [&](int64_t task, int) {
    found[task] = check_block_row(d, stride, n, task * kBlock, tolerance);
  });
  Checked all;
  for (const Checked& c : found) {
    all.symmetric = all.symmetric && c.symmetric;
    all.infinite = all.infinite || c.infinite;
    if (all.not_a_number.problem == Problem::kNone) all.not_a_number = c.not_a_number;
    if (all.other.problem == Problem::kNone) all.other = c.other;
  }
  if (all.not_a_number.problem != Problem::kNone) all.other = all.not_a_number;
  return all;
}

// The place of the first infinite distance, as a problem, if there is one.
template <class T>
Finding find_infinite(const T* d, int64_t stride, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T* row = d + i * stride;
    const T* end = std::find(row, row + n, std::numeric_limits<T>::infinity());
    if (end != row + n) return {Problem::kNonFinite, 0, i, end - row};
  }
  return {};
}

template <class T>
struct Scratch {
  PrimScratch<T> prim;
  Buffer<T> mean;
  Buffer<T> copy;
  Buffer<uint64_t> hashes;
  std::vector<Edge<T>> edges;
};

// Random numbers that differ from call to call, so that no matrix can be constructed to fit them.
Random unknown_numbers() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  return Random{static_cast<uint64_t>(now) ^ reinterpret_cast<uintptr_t>(&now)};
}

// Finds the tree with one read of a matrix that is symmetric to the last bit: each row is checked
// just before it is used. Returns false if the matrix is not symmetric, or has another problem.
template <class T>
bool tree_by_one_read(const T* d, int64_t stride, int64_t n, Scratch<T>& s, bool* infinite) {
  // Most matrices that are not symmetric show it in the first rows.
  const Checked top = check_block_row(d, stride, n, 0, 0.0);
  if (!top.symmetric || top.not_a_number.problem != Problem::kNone ||
      top.other.problem != Problem::kNone) {
    return false;
  }
  uint64_t* weights = s.hashes.reserve(3 * n);
  uint64_t* columns = weights + n;
  uint64_t* rows = columns + n;
  std::generate_n(weights, n, unknown_numbers());
  std::fill_n(columns, n, 0u);
  const auto hash_row = kernels<T>().hash_row;
  int seen = 0;
  const auto look = [&](int64_t u) {
    const T* row = d + u * stride;
    seen |= hash_row(row, n, u, weights, columns, rows + u);
    return seen < 2 && row[u] == 0;
  };
  const bool whole =
      prim_dense(d, stride, n, T{1}, s.prim, s.edges.data(), look) != Prim::kIncomplete;
  *infinite = seen == 1;
  return whole && std::equal(rows, rows + n, columns);
}

// Checks a matrix first, and then finds its tree, in s.edges, unless something other than an
// infinite distance is wrong.
template <class T>
Checked tree_by_two_reads(const T* d, int64_t stride, int64_t n, double tolerance, int threads,
                          Scratch<T>& s) {
  const Checked checked = check_matrix(d, stride, n, tolerance, threads);
  if (checked.other.problem != Problem::kNone || n < 2) return checked;
  if (!checked.symmetric) {
    T* mean = s.mean.reserve(n, n);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        mean[i * n + j] = T(0.5) * d[i * stride + j] + T(0.5) * d[j * stride + i];
      }
    }
    d = mean;
    stride = n;
  }
  if (prim_dense(d, stride, n, T{1}, s.prim, s.edges.data()) != Prim::kIncomplete) return checked;
  // An entry has become negative since it was checked, so another thread writes to the matrix. The
  // tree is that of a copy, which does not change.
  T* copy = s.copy.reserve(n, n);
  for (int64_t i = 0; i < n; ++i) std::copy_n(d + i * stride, n, copy + i * n);
  return tree_by_two_reads<T>(copy, n, n, tolerance, threads, s);
}

template <class T>
Finding from_distances(const BatchShape& shape, const T* distances, double tolerance, T* deaths,
                       int64_t* edges, int threads) {
  std::vector<Scratch<T>> scratch(static_cast<size_t>(threads));
  FindingLog refused, not_finite;
  const int inner = shape.batch < threads ? threads : 1;
  parallel_for(shape.batch, inner > 1 ? 1 : threads, [&](int64_t cloud, int slot) {
    const int64_t n = shape.valid(cloud);
    const int64_t stride = shape.points;
    const T* d = distances + cloud * stride * stride;
    Output<T> out(deaths, edges, shape, cloud);
    out.fill_padding(n);
    Scratch<T>& s = scratch[slot];
    s.edges.resize(static_cast<size_t>(std::max<int64_t>(n - 1, 0)));
    bool infinite = false;
    if (!(n >= kOneRead && inner <= 2 && tree_by_one_read(d, stride, n, s, &infinite))) {
      const Checked checked = tree_by_two_reads(d, stride, n, tolerance, inner, s);
      const Finding& found = checked.other;
      if (found.problem != Problem::kNone) {
        (found.problem == Problem::kNonFinite ? not_finite : refused).add(found, cloud);
        out.fill_nan(n);
        return;
      }
      infinite = checked.infinite;
    }
    if (infinite) {
      const Finding found = find_infinite(d, stride, n);
      if (found.problem != Problem::kNone) not_finite.add(found, cloud);
    }
    std::sort(s.edges.begin(), s.edges.end());
    out.write(s.edges);
  });
  // Problems other than NaN and infinity come first, since check_finite=False does not permit them.
  return refused.first().problem != Problem::kNone ? refused.first() : not_finite.first();
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
