// The gradient of the deaths, routed through the tree edges: O(N D), never N^2.
//
// The edges are turned into lists of incident edges per vertex, in death order; each vertex sums
// its own list. So there are no atomics, and the result is the same for any number of threads.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu/buffer.h"
#include "cpu/check_edge.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"
#include "cpu/thread_pool.h"
#include "tsloss.h"

namespace tsloss {
namespace {

constexpr double kParallelNumbers = 1 << 17;  // below this one thread is faster
constexpr int64_t kVertexGrain = 8;

// Compressed adjacency of one tree.
struct Incidence {
  std::vector<int64_t> start;  // n + 1
  std::vector<int64_t> edge;   // 2 (n - 1) edge numbers, ascending at each vertex

  void build(const int64_t* edges, int64_t bars, int64_t n) {
    start.assign(static_cast<size_t>(n + 1), 0);
    for (int64_t k = 0; k < bars && edges[2 * k] >= 0; ++k) {
      check_edge(edges + 2 * k, n);
      ++start[edges[2 * k] + 1];
      ++start[edges[2 * k + 1] + 1];
    }
    for (int64_t v = 0; v < n; ++v) start[v + 1] += start[v];
    edge.resize(static_cast<size_t>(start[n]));
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t k = 0; k < bars && edges[2 * k] >= 0; ++k) {
      edge[next[edges[2 * k]]++] = k;
      edge[next[edges[2 * k + 1]]++] = k;
    }
  }
};

template <class T>
struct Cloud {
  Metric metric;
  int64_t dim;
  const T* grad;
  const T* points;
  const T* deaths;
  const int64_t* edges;
  const double* units;  // cosine: points / |points|, else null
  const double* norms;
};

// w * (x - y) where w = g / d leaves the range of T, or is about to lose digits: g * ((x - y) / d).
template <class T>
void add_extreme(const T* x, const T* y, int64_t dim, T g, T d, T* out) {
  for (int64_t k = 0; k < dim; ++k) {
    out[k] += static_cast<T>(double(g) * ((double(x[k]) - double(y[k])) / double(d)));
  }
}

// d(1 - cos)/dx = ((u - v) - (1 - cos) u) / |x| for unit vectors u of x and v of y, with 1 - cos =
// |u - v|^2 / 2 taken in double: no digits are lost for nearly parallel vectors.
template <class T>
void add_cosine(const Cloud<T>& c, int64_t v, int64_t other, double g, T* out) {
  const double* a = c.units + v * c.dim;
  const double* b = c.units + other * c.dim;
  double death = 0;
  for (int64_t k = 0; k < c.dim; ++k) death += (a[k] - b[k]) * (a[k] - b[k]);
  death *= 0.5;
  const double w = g / c.norms[v];
  for (int64_t k = 0; k < c.dim; ++k) {
    out[k] += static_cast<T>(w * ((a[k] - b[k]) - death * a[k]));
  }
}

template <class T>
void add_edge(const Cloud<T>& c, int64_t v, int64_t e, T* out) {
  const int64_t other = c.edges[2 * e] == v ? c.edges[2 * e + 1] : c.edges[2 * e];
  const T* x = c.points + v * c.dim;
  const T* y = c.points + other * c.dim;
  const T g = c.grad[e];
  const T d = c.deaths[e];
  const auto add = kernels<T>().add_scaled_difference;
  switch (c.metric) {
    case Metric::kEuclidean: {
      if (d == 0) return;  // the zero subgradient at coincident points
      const T w = g / d;
      const bool extreme =
          std::fabs(d) < std::numeric_limits<T>::min() || (std::isinf(w) && !std::isinf(g));
      if (extreme) {
        add_extreme(x, y, c.dim, g, d, out);
      } else {
        add(x, y, c.dim, w, out);
      }
      return;
    }
    case Metric::kSqeuclidean:
      add(x, y, c.dim, 2 * g, out);
      return;
    case Metric::kCosine:
      add_cosine(c, v, other, double(g), out);
      return;
    case Metric::kManhattan:
      for (int64_t k = 0; k < c.dim; ++k) {
        out[k] += x[k] > y[k] ? g : x[k] < y[k] ? -g : std::isnan(d) ? d : T{0};
      }
      return;
  }
}

template <class T>
void backward(Metric metric, const BatchShape& shape, const T* grad, const T* points,
              const T* deaths, const int64_t* edges, T* out, int threads) {
  const int64_t n = shape.points;
  const int64_t bars = shape.bars();
  if (double(shape.batch) * double(n) * double(shape.dim) < kParallelNumbers) threads = 1;
  const bool by_cloud = shape.batch >= threads;
  const int slots = by_cloud ? threads : 1;
  std::vector<Incidence> incidence(static_cast<size_t>(slots));
  std::vector<Buffer<double>> units(static_cast<size_t>(slots));
  std::vector<Buffer<double>> norms(static_cast<size_t>(slots));

  const auto one = [&](int64_t b, int slot, int inner) {
    Cloud<T> c{metric,
               shape.dim,
               grad + b * bars,
               points + b * n * shape.dim,
               deaths + b * bars,
               edges + 2 * b * bars,
               nullptr,
               nullptr};
    const Incidence& tree = incidence[slot];
    incidence[slot].build(c.edges, bars, n);
    const int64_t tasks = (n + kVertexGrain - 1) / kVertexGrain;
    if (metric == Metric::kCosine) {
      double* unit = units[slot].reserve(checked_mul(n, shape.dim));
      double* norm = norms[slot].reserve(n);
      parallel_for(tasks, inner, [&](int64_t task, int) {
        for (int64_t v = task * kVertexGrain; v < std::min(n, (task + 1) * kVertexGrain); ++v) {
          // Vertices without edges are padding, whose numbers are not even looked at.
          if (tree.start[v] == tree.start[v + 1]) continue;
          norm[v] = normalise(c.points + v * c.dim, c.dim, unit + v * c.dim);
        }
      });
      c.units = unit;
      c.norms = norm;
    }
    parallel_for(tasks, inner, [&](int64_t task, int) {
      for (int64_t v = task * kVertexGrain; v < std::min(n, (task + 1) * kVertexGrain); ++v) {
        T* row = out + (b * n + v) * c.dim;
        std::fill_n(row, c.dim, T{0});
        for (int64_t k = tree.start[v]; k < tree.start[v + 1]; ++k) {
          add_edge(c, v, tree.edge[k], row);
        }
      }
    });
  };

  if (by_cloud) {
    parallel_for(shape.batch, threads, [&](int64_t b, int slot) { one(b, slot, 1); });
  } else {
    for (int64_t b = 0; b < shape.batch; ++b) one(b, 0, threads);
  }
}

}  // namespace

void h0_backward(Dtype dtype, Metric metric, const BatchShape& shape, const void* grad_deaths,
                 const void* points, const void* deaths, const int64_t* edges, void* grad_points,
                 int threads) {
  if (dtype == Dtype::kFloat64) {
    backward(metric, shape, static_cast<const double*>(grad_deaths),
             static_cast<const double*>(points), static_cast<const double*>(deaths), edges,
             static_cast<double*>(grad_points), threads);
  } else {
    backward(metric, shape, static_cast<const float*>(grad_deaths),
             static_cast<const float*>(points), static_cast<const float*>(deaths), edges,
             static_cast<float*>(grad_points), threads);
  }
}

}  // namespace tsloss
