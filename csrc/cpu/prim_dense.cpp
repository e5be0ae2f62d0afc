// Prim's algorithm (1957) on a matrix of keys.
#include <algorithm>
#include <limits>

#include "cpu/tree.h"

namespace tsloss {

template <class T>
bool prim_dense(const T* keys, int64_t stride, int64_t n, PrimScratch<T>& scratch, Edge<T>* edges) {
  constexpr T kInf = std::numeric_limits<T>::infinity();
  const auto relax = kernels<T>().relax;
  T* best = scratch.best.reserve(n);
  T* dead = scratch.dead.reserve(n);
  int32_t* from = scratch.from.reserve(n);
  std::fill_n(best, n, kInf);
  std::fill_n(dead, n, T{0});
  std::fill_n(from, n, std::numeric_limits<int32_t>::max());
  dead[0] = kInf;
  int32_t u = 0;
  for (int64_t k = 0; k + 1 < n; ++k) {
    const T least = relax(keys + u * stride, dead, n, u, best, from);
    if (!(least < kInf)) return false;
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
  }
  return true;
}

template bool prim_dense(const float*, int64_t, int64_t, PrimScratch<float>&, Edge<float>*);
template bool prim_dense(const double*, int64_t, int64_t, PrimScratch<double>&, Edge<double>*);

}  // namespace tsloss
