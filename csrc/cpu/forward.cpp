// Points -> deaths and critical edges, for a batch of clouds.
//
// One cloud: load rows (padded, checked) -> keys -> minimum spanning tree -> lengths of the n - 1
// tree edges anew in double -> sort. A batch is split over the threads by cloud; a single cloud by
// tiles.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/output.h"
#include "cpu/rows.h"
#include "cpu/thread_pool.h"
#include "cpu/tree.h"
#include "tsloss.h"

namespace tsloss {
namespace {

// A tile block of two panels of rows stays in a 1 MB L2 cache.
constexpr int64_t kPanelBytes = int64_t{128} << 10;
// Below this many multiply-adds a second thread costs more than it brings.
constexpr double kParallelWork = 1 << 19;

Term term_of(Metric metric) {
  return metric == Metric::kManhattan ? Term::kAbsolute : Term::kSquared;
}

template <class T>
void fill_keys(const Rows<T>& rows, int64_t n, Term term, int threads, T* keys, int64_t stride) {
  const int64_t row_bytes = rows.stride * static_cast<int64_t>(sizeof(T));
  int64_t panel = std::clamp<int64_t>(kPanelBytes / row_bytes, 16, 512);
  if (threads > 1) panel = std::min(panel, std::max<int64_t>(16, n / (4 * threads)));
  panel = round_up(panel, 4);
  const int64_t panels = (n + panel - 1) / panel;
  const auto block = kernels<T>().block;
  parallel_for(panels * (panels + 1) / 2, threads, [&](int64_t task, int) {
    int64_t q = static_cast<int64_t>((std::sqrt(8.0 * double(task) + 1) - 1) / 2);
    while (q * (q + 1) / 2 > task) --q;
    while ((q + 1) * (q + 2) / 2 <= task) ++q;
    const int64_t p = task - q * (q + 1) / 2;
    block(rows, term, p * panel, std::min(n, (p + 1) * panel), q * panel,
          std::min(n, (q + 1) * panel), keys, stride);
  });
}

// Memory of one thread for one cloud at a time. It is kept between calls, because fresh pages cost
// more than the arithmetic of a small cloud, unless it is large.
constexpr int64_t kKeptBytes = int64_t{16} << 20;

template <class T>
struct Scratch {
  Buffer<T> rows;
  Buffer<T> keys;
  PrimScratch<T> prim;
  std::vector<Edge<T>> edges;

  static std::unique_ptr<Scratch>& of_thread() {
    static thread_local std::unique_ptr<Scratch> scratch;
    return scratch;
  }
};

// The scratch of this thread for the time of a scope; then kept for the next call, or freed if it
// has grown large. The destructor allocates nothing: it runs when memory has run out, too.
template <class T>
class Borrowed {
 public:
  Borrowed() : scratch_(std::move(Scratch<T>::of_thread())) {
    if (!scratch_) scratch_ = std::make_unique<Scratch<T>>();
  }
  ~Borrowed() {
    if (scratch_->rows.bytes() + scratch_->keys.bytes() <= kKeptBytes) {
      Scratch<T>::of_thread() = std::move(scratch_);
    }
  }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  Scratch<T>& operator*() { return *scratch_; }

 private:
  std::unique_ptr<Scratch<T>> scratch_;
};

// Squares below this have lost digits to underflow, whatever the number of terms.
template <class T>
T underflow_limit(int64_t dim) {
  const int exponent = std::is_same_v<T, float> ? -110 : -960;
  return std::ldexp(static_cast<T>(std::max<int64_t>(dim, 1)), exponent);
}

// True if a squared key in the tree cannot be trusted. If none, none outside the tree can matter:
// the tree path between two points has no edge longer than their distance, so a pair whose key sank
// below the limit has such a path, and one whose key rose to infinity is longer than every tree
// edge.
template <class T>
bool leaves_range(const Rows<T>& rows, const std::vector<Edge<T>>& edges) {
  const T limit = underflow_limit<T>(rows.dim);
  for (const Edge<T>& e : edges) {
    if (e.length >= limit) continue;
    if (e.length > 0 || !std::equal(rows[e.i], rows[e.i] + rows.dim, rows[e.j])) return true;
  }
  return false;
}

// The tree in scratch.edges, with lengths under `metric` instead of keys, sorted.
template <class T, class Out>
void solve(Metric metric, T* data, int64_t stride, int64_t dim, int64_t n, int threads,
           Scratch<T>& scratch, std::vector<Edge<Out>>& result) {
  const Term term = term_of(metric);
  const Rows<T> rows{data, stride, dim};
  std::vector<Edge<T>>& edges = scratch.edges;
  edges.resize(static_cast<size_t>(n - 1));

  bool streaming = n > kDenseLimit;
  bool complete = false;
  if (!streaming) {
    const int64_t key_stride = round_up(n, kLanes);
    try {
      scratch.keys.reserve(checked_mul(n, key_stride));
    } catch (const std::bad_alloc&) {
      streaming = true;  // slower, and within reach
    }
    if (!streaming) {
      fill_keys(rows, n, term, threads, scratch.keys.data(), key_stride);
      complete = prim_dense(scratch.keys.data(), key_stride, n, scratch.prim, edges.data());
    }
  }
  if (streaming) {
    Buffer<T> copy;  // prim_streaming reorders its rows
    std::copy_n(data, n * stride, copy.reserve(checked_mul(n, stride)));
    complete = prim_streaming(copy.data(), stride, dim, n, term, threads, edges.data());
  }

  result.resize(edges.size());
  const bool robust = !complete || (term == Term::kSquared && metric != Metric::kCosine &&
                                    leaves_range(rows, edges));
  std::vector<Edge<double>> exact;
  if (robust) {
    exact.resize(edges.size());
    prim_robust(rows, n, term, threads, exact.data());
  }
  const auto refine = kernels<T>().refine;
  for (size_t k = 0; k < edges.size(); ++k) {
    const int64_t i = robust ? exact[k].i : edges[k].i;
    const int64_t j = robust ? exact[k].j : edges[k].j;
    double length;
    if (robust) {
      length = exact[k].length;
      if (metric == Metric::kSqeuclidean) length *= length;
    } else {
      length = refine(rows[i], rows[j], dim, term);
      if (metric == Metric::kEuclidean) length = std::sqrt(length);
      if (metric == Metric::kCosine) length *= 0.5;  // 1 - cos of unit vectors
    }
    result[k] = {static_cast<Out>(length), i, j};
  }
  std::sort(result.begin(), result.end());
}

// T: the type of the points and the deaths. W: the type that is computed in; double for cosine,
// whose unit vectors would lose half the digits of a small distance in float.
template <class T, class W>
Finding forward(Metric metric, const BatchShape& shape, const T* points, T* deaths, int64_t* edges,
                int threads) {
  const int64_t stride = round_up(std::max<int64_t>(shape.dim, 1), kLanes);
  const double pairs = double(shape.points) * double(shape.points) / 2;
  if (double(shape.batch) * pairs * double(stride) < kParallelWork) threads = 1;
  const bool by_cloud = shape.batch >= threads;
  FindingLog log;

  const auto one = [&](int64_t cloud, int inner) {
    const int64_t n = shape.valid(cloud);
    const T* x = points + cloud * shape.points * shape.dim;
    Output<T> out(deaths, edges, shape.bars(), cloud);
    out.fill_padding(n);
    Borrowed<W> borrowed;
    Scratch<W>& s = *borrowed;
    std::vector<Edge<T>> result;
    W* rows = s.rows.reserve(checked_mul(std::max<int64_t>(n, 1), stride));
    Finding found = load_rows(x, n, shape.dim, rows, stride);
    if (found.problem == Problem::kNone && metric == Metric::kCosine) {
      found = normalise_rows(n, shape.dim, rows, stride);
    }
    if (found.problem != Problem::kNone) {
      log.add(found, cloud);
      out.fill_nan(n);
      return;
    }
    if (n < 2) return;
    solve(metric, rows, stride, stride, n, inner, s, result);
    out.write(result);
    const Edge<T>& longest = result.back();
    if (!std::isfinite(longest.length)) {
      log.add({Problem::kOverflow, cloud, longest.i, longest.j}, cloud);
    }
  };

  if (by_cloud) {
    parallel_for(shape.batch, threads, [&](int64_t cloud, int) { one(cloud, 1); });
  } else {
    for (int64_t cloud = 0; cloud < shape.batch; ++cloud) one(cloud, threads);
  }
  return log.first();
}

template <class T>
void keys_of(Metric metric, const BatchShape& shape, const T* points, T* distances, int threads) {
  const int64_t stride = round_up(std::max<int64_t>(shape.dim, 1), kLanes);
  Buffer<T> rows;
  rows.reserve(checked_mul(std::max<int64_t>(shape.points, 1), stride));
  for (int64_t cloud = 0; cloud < shape.batch; ++cloud) {
    const int64_t n = shape.points;
    load_rows(points + cloud * n * shape.dim, n, shape.dim, rows.data(), stride);
    if (n == 0) continue;
    fill_keys(Rows<T>{rows.data(), stride, stride}, n, term_of(metric), threads,
              distances + cloud * n * n, n);
  }
}

}  // namespace

Finding h0_forward(Dtype dtype, Metric metric, const BatchShape& shape, const void* points,
                   void* deaths, int64_t* edges, int threads) {
  if (dtype == Dtype::kFloat64) {
    return forward<double, double>(metric, shape, static_cast<const double*>(points),
                                   static_cast<double*>(deaths), edges, threads);
  }
  const float* x = static_cast<const float*>(points);
  float* out = static_cast<float*>(deaths);
  if (metric == Metric::kCosine) {
    return forward<float, double>(metric, shape, x, out, edges, threads);
  }
  return forward<float, float>(metric, shape, x, out, edges, threads);
}

void pairwise_keys(Dtype dtype, Metric metric, const BatchShape& shape, const void* points,
                   void* distances, int threads) {
  if (dtype == Dtype::kFloat64) {
    keys_of(metric, shape, static_cast<const double*>(points), static_cast<double*>(distances),
            threads);
  } else {
    keys_of(metric, shape, static_cast<const float*>(points), static_cast<float*>(distances),
            threads);
  }
}

}  // namespace tsloss
