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
constexpr int64_t kHubEdges = 64;
constexpr int64_t kHubSlice = 256;
constexpr int64_t kKeptVertices = 1 << 16;

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
    next.assign(start.begin(), start.end() - 1);
    for (int64_t k = 0; k < bars && edges[2 * k] >= 0; ++k) {
      edge[next[edges[2 * k]]++] = k;
      edge[next[edges[2 * k + 1]]++] = k;
    }
  }

  // Vertices depth first, so that the neighbours of one are those read just before or needed right
  // after it, and each row comes from far memory about once.
  void walk(const int64_t* edges, int64_t n) {
    order.clear();
    seen.assign(static_cast<size_t>(n), 0);
    for (int64_t root = 0; root < n; ++root) {
      if (seen[root]) continue;
      seen[root] = 1;
      stack.assign(1, root);
      while (!stack.empty()) {
        const int64_t v = stack.back();
        stack.pop_back();
        order.push_back(v);
        for (int64_t k = start[v]; k < start[v + 1]; ++k) {
          const int64_t* e = edges + 2 * edge[k];
          const int64_t u = e[0] == v ? e[1] : e[0];
          if (seen[u]) continue;
          seen[u] = 1;
          stack.push_back(u);
        }
      }
    }
  }

  std::vector<int64_t> next;
  std::vector<int64_t> order;  // of walk
  std::vector<int64_t> stack;
  std::vector<char> seen;
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

  int64_t other(int64_t e, int64_t v) const {
    return edges[2 * e] == v ? edges[2 * e + 1] : edges[2 * e];
  }
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

// Asks for the rows that vertex v will read: a row is too short for the processor to notice that it
// is being read through.
template <class T>
void prefetch_neighbours(const Cloud<T>& c, const Incidence& tree, int64_t v) {
  constexpr int64_t kRows = 4;
  const int64_t end = std::min(tree.start[v + 1], tree.start[v] + kRows);
  for (int64_t k = tree.start[v]; k < end; ++k) {
    const char* row = reinterpret_cast<const char*>(c.points + c.other(tree.edge[k], v) * c.dim);
    const int64_t bytes = c.dim * static_cast<int64_t>(sizeof(T));
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at);
  }
}

// The gradient at coordinates [begin, end) of vertex v under the metrics of differences, which is
// a weighted sum of differences to its neighbours.
template <class T>
void sum_differences(const Cloud<T>& c, const Incidence& tree, int64_t v, int64_t begin,
                     int64_t end, T* row) {
  constexpr int64_t kAtOnce = 16;  // rows read side by side
  const auto weigh = kernels<T>().weigh_differences;
  const T* x = c.points + v * c.dim + begin;
  const T* others[kAtOnce];
  T weights[kAtOnce];
  int64_t count = 0;
  bool add = false, extreme = false;
  const auto weight = [&](int64_t e, bool* out_of_range) {
    if (c.metric == Metric::kSqeuclidean) return 2 * c.grad[e];
    const T w = c.grad[e] / c.deaths[e];
    *out_of_range = std::fabs(c.deaths[e]) < std::numeric_limits<T>::min() ||
                    (std::isinf(w) && !std::isinf(c.grad[e]));
    return w;
  };
  for (int64_t k = tree.start[v]; k < tree.start[v + 1]; ++k) {
    const int64_t e = tree.edge[k];
    // The zero subgradient at coincident points.
    if (c.metric == Metric::kEuclidean && c.deaths[e] == 0) continue;
    bool out_of_range = false;
    const T w = weight(e, &out_of_range);
    if (out_of_range) {
      extreme = true;
      continue;
    }
    others[count] = c.points + c.other(e, v) * c.dim + begin;
    weights[count++] = w;
    if (count == kAtOnce) {
      weigh(x, others, weights, count, end - begin, add, row + begin);
      add = true;
      count = 0;
    }
  }
  if (count > 0 || !add) weigh(x, others, weights, count, end - begin, add, row + begin);
  if (!extreme) return;
  for (int64_t k = tree.start[v]; k < tree.start[v + 1]; ++k) {
    const int64_t e = tree.edge[k];
    bool out_of_range = false;
    if (c.deaths[e] == 0) continue;
    weight(e, &out_of_range);
    if (!out_of_range) continue;
    add_extreme(x, c.points + c.other(e, v) * c.dim + begin, end - begin, c.grad[e], c.deaths[e],
                row + begin);
  }
}

template <class T>
void add_edge(const Cloud<T>& c, int64_t v, int64_t e, T* out) {
  const int64_t other = c.other(e, v);
  if (c.metric == Metric::kCosine) {
    add_cosine(c, v, other, double(c.grad[e]), out);
    return;
  }
  const T* x = c.points + v * c.dim;
  const T* y = c.points + other * c.dim;
  const T g = c.grad[e];
  const T d = c.deaths[e];
  for (int64_t k = 0; k < c.dim; ++k) {
    out[k] += x[k] > y[k] ? g : x[k] < y[k] ? -g : std::isnan(d) ? d : T{0};
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
    // Kept between calls: fresh pages for it would cost as much as the sums of a small cloud.
    static thread_local Incidence kept;
    Incidence local;
    Incidence& tree = n <= kKeptVertices ? kept : local;
    tree.build(c.edges, bars, n);
    tree.walk(c.edges, n);
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
    if (metric == Metric::kCosine || metric == Metric::kManhattan) {
      parallel_for(tasks, inner, [&](int64_t task, int) {
        for (int64_t v = task * kVertexGrain; v < std::min(n, (task + 1) * kVertexGrain); ++v) {
          T* row = out + (b * n + v) * c.dim;
          std::fill_n(row, c.dim, T{0});
          for (int64_t k = tree.start[v]; k < tree.start[v + 1]; ++k) {
            add_edge(c, v, tree.edge[k], row);
          }
        }
      });
      return;
    }
    // Hubs are split by coordinates, so that no thread has all of one.
    std::vector<int64_t> hubs;
    for (int64_t v = 0; v < n && inner > 1; ++v) {
      if (tree.start[v + 1] - tree.start[v] > kHubEdges) hubs.push_back(v);
    }
    const int64_t slices = (shape.dim + kHubSlice - 1) / kHubSlice;
    const int64_t hub_tasks = static_cast<int64_t>(hubs.size()) * slices;
    parallel_for(hub_tasks + tasks, inner, [&](int64_t task, int) {
      if (task < hub_tasks) {
        const int64_t v = hubs[task / slices], begin = task % slices * kHubSlice;
        sum_differences(c, tree, v, begin, std::min(shape.dim, begin + kHubSlice),
                        out + (b * n + v) * c.dim);
        return;
      }
      task -= hub_tasks;
      for (int64_t p = task * kVertexGrain; p < std::min(n, (task + 1) * kVertexGrain); ++p) {
        const int64_t v = tree.order[p];
        if (p + 1 < n) prefetch_neighbours(c, tree, tree.order[p + 1]);
        if (inner > 1 && tree.start[v + 1] - tree.start[v] > kHubEdges) continue;
        sum_differences(c, tree, v, 0, shape.dim, out + (b * n + v) * c.dim);
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
