// The rescue path: clouds with distances so small or so large that their squares leave the range of
// the type. Rare, so plain: O(n^2 D) scalar work, split over threads by rows.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu/runtime/thread_pool.h"
#include "cpu/tree/tree.h"

namespace tsloss {

namespace {

// A sum in the order in which `refine` (rows.inl) and the CUDA kernels add: sixteen lanes, then
// pairs of them.
class LaneSum {
 public:
  void add(int64_t k, double x) { lanes_[k % 16] += x; }
  double total() {
    for (int step = 8; step > 0; step /= 2) {
      for (int lane = 0; lane < step; ++lane) lanes_[lane] += lanes_[lane + step];
    }
    return lanes_[0];
  }

 private:
  double lanes_[16] = {};
};

}  // namespace

template <class T>
double robust_length(const T* x, const T* y, int64_t dim, Term term) {
  LaneSum sum;
  if (term == Term::kAbsolute) {
    for (int64_t k = 0; k < dim; ++k) sum.add(k, std::fabs(double(x[k]) - double(y[k])));
    return sum.total();
  }
  if constexpr (std::is_same_v<T, float>) {
    // Squares of floats and of their differences stay within the range of double.
    for (int64_t k = 0; k < dim; ++k) {
      const double d = double(x[k]) - double(y[k]);
      sum.add(k, d * d);
    }
    return std::sqrt(sum.total());
  } else {
    double largest = 0;
    for (int64_t k = 0; k < dim; ++k) largest = std::max(largest, std::fabs(x[k] - y[k]));
    if (largest == 0 || !std::isfinite(largest)) return largest;
    // Scaling by a power of two is exact, as in hypot.
    const int exponent = std::ilogb(largest);
    for (int64_t k = 0; k < dim; ++k) {
      const double d = std::scalbn(x[k] - y[k], -exponent);
      sum.add(k, d * d);
    }
    return std::scalbn(std::sqrt(sum.total()), exponent);
  }
}

template <class T>
void prim_robust(const Rows<T>& rows, int64_t n, Term term, bool by_keys, int threads,
                 Edge<double>* edges) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  std::vector<double> best(static_cast<size_t>(n), kInf);
  // An infinite edge begins at the first point, as in prim_dense.
  std::vector<int64_t> from(static_cast<size_t>(n), 0);
  std::vector<char> in_tree(static_cast<size_t>(n), 0);
  const auto measure = by_keys ? kernels<T>().refine : robust_length<T>;
  constexpr int64_t kGrain = 64;
  const int64_t tasks = (n + kGrain - 1) / kGrain;
  int64_t u = 0;
  in_tree[0] = 1;
  for (int64_t k = 0; k + 1 < n; ++k) {
    parallel_for(tasks, n * rows.dim > (1 << 16) ? threads : 1, [&](int64_t task, int) {
      for (int64_t j = task * kGrain; j < std::min(n, (task + 1) * kGrain); ++j) {
        if (in_tree[j]) continue;
        const double length = measure(rows[u], rows[j], rows.dim, term);
        if (length < best[j] || (length == best[j] && u < from[j])) {
          best[j] = length;
          from[j] = u;
        }
      }
    });
    Edge<double> edge{kInf, n, n};
    for (int64_t j = 0; j < n; ++j) {
      if (in_tree[j]) continue;
      const Edge<double> candidate{best[j], std::min(from[j], j), std::max(from[j], j)};
      if (candidate < edge) {
        edge = candidate;
        u = j;
      }
    }
    edges[k] = edge;
    in_tree[u] = 1;
  }
}

template double robust_length(const float*, const float*, int64_t, Term);
template double robust_length(const double*, const double*, int64_t, Term);
template void prim_robust(const Rows<float>&, int64_t, Term, bool, int, Edge<double>*);
template void prim_robust(const Rows<double>&, int64_t, Term, bool, int, Edge<double>*);

}  // namespace tsloss
