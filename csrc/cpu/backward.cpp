// The gradient of the deaths, routed through the tree edges: O(N D), never N^2.
//
// The tree is walked from a root, so that the lower end of an edge is new and its upper end was
// used just before. A row of the points is then read from far memory about once, a row of the
// gradient is written there once, and a vertex of high degree stays in the nearest cache while its
// leaves are visited. Threads divide the coordinates among them and never the edges, so no atomics
// are needed and the sums are the same for any number of threads.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu/check_edge.h"
#include "cpu/kernels/kernels.h"
#include "cpu/rows.h"
#include "cpu/runtime/buffer.h"
#include "cpu/runtime/schedule.h"
#include "cpu/runtime/thread_pool.h"
#include "tsloss.h"

namespace tsloss {
namespace {

constexpr double kParallelNumbers = 1 << 17;  // below this one thread is faster
constexpr int64_t kVertexGrain = 8;
constexpr int64_t kLeastSlice = 64;         // coordinates that a thread works on at least
constexpr int64_t kKeptVertices = 1 << 16;  // larger adjacencies are freed after each call

// Compressed adjacency of one tree.
struct Incidence {
  std::vector<Ends> ends;      // ends of the edges, as they were when they were checked
  std::vector<int64_t> start;  // by vertex, n + 1: where its edges begin in `edge`
  std::vector<int64_t> edge;   // 2 (n - 1) edge numbers, ascending at each vertex

  void build(const int64_t* edges, int64_t bars, int64_t n) {
    ends.resize(static_cast<size_t>(bars));
    start.assign(static_cast<size_t>(n + 1), 0);
    int64_t count = 0;
    for (; count < bars && __atomic_load_n(edges + 2 * count, __ATOMIC_RELAXED) >= 0; ++count) {
      ends[count] = read_edge(edges + 2 * count, n);
      ++start[ends[count].i + 1];
      ++start[ends[count].j + 1];
    }
    for (int64_t v = 0; v < n; ++v) start[v + 1] += start[v];
    edge.resize(static_cast<size_t>(start[n]));
    next.assign(start.begin(), start.end() - 1);
    for (int64_t k = 0; k < count; ++k) {
      edge[next[ends[k].i]++] = k;
      edge[next[ends[k].j]++] = k;
    }
  }

  int64_t other(int64_t e, int64_t v) const { return ends[e].i == v ? ends[e].j : ends[e].i; }

  // Fills `order` with the vertices so that each follows its parent, the leaves of one parent stand
  // side by side, and each has the edge that leads to its parent (-1 for a root).
  void walk(int64_t n) {
    order.clear();
    seen.assign(static_cast<size_t>(n), 0);
    for (int64_t root = 0; root < n; ++root) {
      if (seen[root]) continue;
      seen[root] = 1;
      stack.assign(1, {root, -1, -1});
      while (!stack.empty()) {
        const Step at = stack.back();
        stack.pop_back();
        order.push_back(at);
        for (int64_t k = start[at.vertex]; k < start[at.vertex + 1]; ++k) {
          const int64_t u = other(edge[k], at.vertex);
          if (seen[u]) continue;
          seen[u] = 1;
          (start[u + 1] - start[u] == 1 ? order : stack).push_back({u, at.vertex, edge[k]});
        }
      }
    }
  }

  struct Step {
    int64_t vertex;
    int64_t parent;
    int64_t edge;
  };
  std::vector<int64_t> next;
  std::vector<Step> order;  // what walk() fills
  std::vector<Step> stack;
  std::vector<char> seen;
};

template <class T>
struct Cloud {
  Metric metric;
  int64_t dim;
  const T* grad;
  const T* points;
  const T* deaths;
  const double* units;  // points / |points| under the cosine metric, otherwise null
  const double* norms;
};

// Adds the gradient of a cosine distance: d(1 - cos)/dx = ((u - v) - (1 - cos) u) / |x| for the
// unit vectors u of x and v of y. The distance is computed as |u - v|^2 / 2 in double, so no digits
// are lost for nearly parallel vectors.
template <class T>
void add_cosine(const Cloud<T>& c, int64_t v, int64_t other, double g, T* out) {
  const double* a = c.units + v * c.dim;
  const double* b = c.units + other * c.dim;
  double death = 0;
  for (int64_t k = 0; k < c.dim; ++k) death += (a[k] - b[k]) * (a[k] - b[k]);
  death *= 0.5;
  const double norm = c.norms[v], w = g / norm;
  const bool divide = std::isinf(w);  // 0 times an infinite factor would be NaN
  for (int64_t k = 0; k < c.dim; ++k) {
    const double slope = (a[k] - b[k]) - death * a[k];
    out[k] += static_cast<T>(divide ? slope / norm * g : w * slope);
  }
}

// Routes the gradient under the metrics that are functions of coordinate differences: an edge adds
// to its lower end what it subtracts from its upper end.
template <class T>
class Router {
 public:
  Router(const Cloud<T>& cloud, const Incidence& tree, T* out)
      : c_(cloud), steps_(tree.order), out_(out) {}

  // Routes coordinates [begin, end) of all points.
  void run(int64_t begin, int64_t end) const {
    const int64_t n = static_cast<int64_t>(steps_.size());
    for (int64_t p = 0, asked = 0; p < n;) {
      for (; asked < p + 4 * kSiblings; ++asked) prefetch(asked, begin, end);
      const int64_t parent = steps_[p].parent;
      if (parent < 0) {
        std::fill(at(steps_[p].vertex) + begin, at(steps_[p].vertex) + end, T{0});
        ++p;
        continue;
      }
      const T* x[kSiblings];
      T* out[kSiblings];
      T weights[kSiblings];
      int64_t count = 0;
      while (count < kSiblings && p + count < n && steps_[p + count].parent == parent) {
        const Step& s = steps_[p + count];
        if (!weigh(s.edge, &weights[count])) break;
        x[count] = c_.points + s.vertex * c_.dim + begin;
        out[count++] = at(s.vertex) + begin;
      }
      if (count > 0) {
        route_(x, count, c_.points + parent * c_.dim + begin, weights, end - begin, out,
               at(parent) + begin);
      } else {
        route_one(steps_[p], begin, end);
        count = 1;
      }
      p += count;
    }
  }

 private:
  using Step = Incidence::Step;

  T* at(int64_t v) const { return out_ + v * c_.dim; }

  // Sets the factor of the difference. Returns false where no single factor gives the gradient to
  // full precision; route_one() does then.
  bool weigh(int64_t e, T* weight) const {
    if (c_.metric == Metric::kManhattan) return false;
    if (c_.metric == Metric::kSqeuclidean) {
      *weight = 2 * c_.grad[e];
      return !std::isinf(*weight) || std::isinf(c_.grad[e]);
    }
    const T g = c_.grad[e], d = c_.deaths[e];
    if (d == 0) {  // coincident points have gradient 0
      *weight = T{0};
      return true;
    }
    constexpr T kLeast = std::numeric_limits<T>::min();  // smaller numbers have lost digits
    *weight = g / d;
    return std::fabs(d) >= kLeast && (std::fabs(*weight) >= kLeast || g == 0) &&
           (!std::isinf(*weight) || std::isinf(g));
  }

  void route_one(const Step& s, int64_t begin, int64_t end) const {
    const T* x = c_.points + s.vertex * c_.dim;
    const T* y = c_.points + s.parent * c_.dim;
    const T g = c_.grad[s.edge], d = c_.deaths[s.edge];
    T* lower = at(s.vertex);
    T* upper = at(s.parent);
    for (int64_t k = begin; k < end; ++k) {
      T part;
      if (c_.metric == Metric::kManhattan) {
        part = x[k] > y[k] ? g : x[k] < y[k] ? -g : std::isnan(d) ? d : T{0};
      } else if (c_.metric == Metric::kSqeuclidean) {  // 2 g leaves the range of T
        part = static_cast<T>(2 * (double(g) * (double(x[k]) - double(y[k]))));
      } else {  // g / d leaves the range of T, or is about to lose digits
        part = static_cast<T>(double(g) * ((double(x[k]) - double(y[k])) / double(d)));
      }
      lower[k] = part;
      upper[k] -= part;
    }
  }

  // Rows are too short for the processor to detect a sequential read and prefetch by itself.
  void prefetch(int64_t p, int64_t begin, int64_t end) const {
    if (p >= static_cast<int64_t>(steps_.size())) return;
    const T* row = c_.points + steps_[p].vertex * c_.dim;
    for (int64_t k = begin; k < end; k += 64 / static_cast<int64_t>(sizeof(T))) {
      __builtin_prefetch(row + k, 0, 2);
    }
  }

  const Cloud<T>& c_;
  const std::vector<Step>& steps_;
  T* out_;
  decltype(Kernels<T>::route) route_ = kernels<T>().route;
};

template <class T>
void backward(Metric metric, const BatchShape& shape, const T* grad, const T* points,
              const T* deaths, const int64_t* edges, T* out, int threads) {
  const double numbers = double(shape.points) * double(shape.dim);
  if (double(shape.batch) * numbers < kParallelNumbers) threads = 1;
  std::vector<Buffer<double>> units(static_cast<size_t>(threads));
  std::vector<Buffer<double>> norms(static_cast<size_t>(threads));

  const auto one = [&](int64_t b, int slot, int inner) {
    const int64_t n = shape.points_of(b), bars = shape.bars_of(b);
    const int64_t first = shape.first_point(b), first_bar = shape.first_bar(b);
    Cloud<T> c{metric,  shape.dim, grad + first_bar, points + first * shape.dim, deaths + first_bar,
               nullptr, nullptr};
    // The adjacency is kept between calls, because fresh pages for it would cost as much as the
    // sums of a small cloud.
    static thread_local Incidence kept;
    Incidence local;
    Incidence& tree = n <= kKeptVertices ? kept : local;
    tree.build(edges + 2 * first_bar, bars, n);
    if (metric != Metric::kCosine) {
      tree.walk(n);
      const Router<T> router(c, tree, out + first * c.dim);
      const int64_t least = round_up((c.dim + inner - 1) / inner, kLanes);
      const int64_t slice = std::max(least, kLeastSlice);
      parallel_for((c.dim + slice - 1) / slice, inner, [&](int64_t task, int) {
        router.run(task * slice, std::min(c.dim, (task + 1) * slice));
      });
      return;
    }
    const int64_t tasks = (n + kVertexGrain - 1) / kVertexGrain;
    double* unit = units[slot].reserve(n, shape.dim);
    double* norm = norms[slot].reserve(n);
    parallel_for(tasks, inner, [&](int64_t task, int) {
      for (int64_t v = task * kVertexGrain; v < std::min(n, (task + 1) * kVertexGrain); ++v) {
        // Vertices without edges are padding, whose coordinates are never read.
        if (tree.start[v] == tree.start[v + 1]) continue;
        norm[v] = normalise(c.points + v * c.dim, c.dim, unit + v * c.dim);
        if (norm[v] == 0) std::fill_n(unit + v * c.dim, c.dim, 0.0);
      }
    });
    c.units = unit;
    c.norms = norm;
    parallel_for(tasks, inner, [&](int64_t task, int) {
      for (int64_t v = task * kVertexGrain; v < std::min(n, (task + 1) * kVertexGrain); ++v) {
        T* row = out + (first + v) * c.dim;
        std::fill_n(row, c.dim, T{0});
        for (int64_t k = tree.start[v]; k < tree.start[v + 1]; ++k) {
          const int64_t e = tree.edge[k];
          // NaN deaths mark a cloud with a bad point, whose gradient must be NaN too.
          const double g = std::isnan(c.deaths[e]) ? double(c.deaths[e]) : double(c.grad[e]);
          add_cosine(c, v, tree.other(e, v), g, row);
        }
      }
    });
  };

  const auto cost = [&](int64_t b) { return double(shape.points_of(b)); };
  const auto worth = [&](int64_t b) { return cost(b) * double(shape.dim) >= kParallelNumbers; };
  for_each_cloud(shape, threads, cost, worth, one);
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
