// Prim's algorithm (1957) on a matrix of keys.
#include <algorithm>
#include <limits>

#include "cpu/tree.h"

namespace tsloss {

template <class T>
Prim prim_dense(const T* keys, int64_t stride, int64_t n, T band, PrimScratch<T>& scratch,
                Edge<T>* edges) {
  constexpr T kInf = std::numeric_limits<T>::infinity();
  const auto relax = kernels<T>().relax;
  T* best = scratch.best.reserve(n);
  T* dead = scratch.dead.reserve(n);
  T* bottleneck = scratch.bottleneck.reserve(n);
  int32_t* from = scratch.from.reserve(n);
  std::fill_n(best, n, kInf);
  std::fill_n(dead, n, T{0});
  std::fill_n(bottleneck, n, T{-1});
  std::fill_n(from, n, std::numeric_limits<int32_t>::max());
  dead[0] = kInf;
  int32_t u = 0;
  T height = 0;
  int64_t close = 0;  // pairs within the band of their bottleneck, of which the tree has `own`
  int64_t own = 0;
  for (int64_t k = 0; k + 1 < n; ++k) {
    const T least = relax(keys + u * stride, dead, n, u, height, band, best, from, bottleneck,
                          &close);
    if (!(least < kInf)) return Prim::kIncomplete;
    bottleneck[u] = 0;
    // Almost always one vertex has the least key; ties are decided by the edge.
    Edge<T> edge{kInf, 0, 0};
    for (int64_t j = 0; j < n; ++j) {
      if (best[j] != least) continue;
      const Edge<T> candidate{least, std::min<int64_t>(from[j], j), std::max<int64_t>(from[j], j)};
      if (candidate < edge) {
        edge = candidate;
        u = static_cast<int32_t>(j);
      }
    }
    edges[k] = edge;
    dead[u] = kInf;
    best[u] = kInf;
    height = least;
    own += least > 0;
  }
  relax(keys + u * stride, dead, n, u, height, band, best, from, bottleneck, &close);
  return close == own ? Prim::kCertain : Prim::kContested;
}

template Prim prim_dense(const float*, int64_t, int64_t, float, PrimScratch<float>&, Edge<float>*);
template Prim prim_dense(const double*, int64_t, int64_t, double, PrimScratch<double>&,
                         Edge<double>*);

}  // namespace tsloss
