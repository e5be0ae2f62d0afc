// Prim's algorithm (1957) on a matrix of keys.
#include <algorithm>
#include <limits>
#include <numeric>

#include "cpu/runtime/monitor.h"
#include "cpu/tree/tree.h"

namespace tsloss {

template <class T>
Prim prim_dense(const T* keys, int64_t stride, int64_t n, T band, PrimScratch<T>& scratch,
                Edge<T>* edges, const std::function<bool(int64_t u)>& look) {
  constexpr T kInf = std::numeric_limits<T>::infinity();
  const Kernels<T>& table = kernels<T>();
  // The vertices are padded as the rows are, so that loops over them have no tail.
  const int64_t width = std::min(stride, round_up(n, kLanes));
  T* best = scratch.best.reserve(width);
  T* bottleneck = band > 1 ? scratch.bottleneck.reserve(width) : nullptr;
  Index<T>* from = scratch.from.reserve(width);
  int32_t* found = scratch.found.reserve(width);
  std::fill_n(best, n, kInf);
  std::fill(best + n, best + width, T{-1});
  if (bottleneck) std::fill_n(bottleneck, width, T{-1});  // not in the tree
  // A vertex without a finite key to the tree joins it at the first vertex, infinitely far away:
  // that is the least of its edges, since vertex 0 is in the tree from the beginning.
  std::fill_n(from, width, Index<T>{0});
  int32_t u = 0;
  T height = 0;
  // Counts the pairs within the band of their bottleneck; `own` of them are in the tree.
  alignas(64) T close[kLanes] = {};
  int64_t own = 0;
  bool infinite = false;
  for (int64_t k = 0;; ++k) {
    if (look && !look(u)) return Prim::kIncomplete;
    best[u] = -1;
    const T least = table.relax(keys + u * stride, width, static_cast<Index<T>>(u), height, band,
                                best, from, bottleneck, close);
    if (bottleneck) bottleneck[u] = 0;
    if (k + 1 == n) break;
    // Almost always one vertex has the least key; ties are decided by the edge.
    const int64_t count = table.find_least(best, width, least, found);
    if (count == 0) return Prim::kIncomplete;
    Edge<T> edge{kInf, n, n};
    for (int64_t c = 0; c < count; ++c) {
      const int64_t j = found[c];
      const Edge<T> candidate{least, std::min<int64_t>(from[j], j), std::max<int64_t>(from[j], j)};
      if (candidate < edge) {
        edge = candidate;
        u = found[c];
      }
    }
    edges[k] = edge;
    height = least;
    own += least > 0;
    infinite = infinite || !(least < kInf);
    if (k % 64 == 0) Monitor::tick(double(k) / double(n));
  }
  if (infinite) return Prim::kInfinite;
  if (!bottleneck) return Prim::kCertain;
  const double pairs = std::accumulate(close, close + kLanes, 0.0);
  return pairs == double(own) ? Prim::kCertain : Prim::kContested;
}

template Prim prim_dense(const float*, int64_t, int64_t, float, PrimScratch<float>&, Edge<float>*,
                         const std::function<bool(int64_t)>&);
template Prim prim_dense(const double*, int64_t, int64_t, double, PrimScratch<double>&,
                         Edge<double>*, const std::function<bool(int64_t)>&);

}  // namespace tsloss
