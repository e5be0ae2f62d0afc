#include "cpu/spatial/spatial.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "cpu/output.h"
#include "cpu/runtime/buffer.h"
#include "cpu/runtime/monitor.h"
#include "cpu/runtime/random.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/spatial/boruvka.h"
#include "cpu/spatial/kd_tree.h"

namespace tsloss {
namespace {

// Joins copies of a point to the first of them by edges of length 0, as the tie rule wants, and
// leaves the first of each in `points`. Returns how many there are. The points go into one table of
// hashes. large/distinct.h sorts hashes instead, so that several threads can share the work and
// rows need not be kept.
template <int D>
int64_t join_copies(SpatialPoint<D>* points, int64_t n, std::vector<Edge<double>>& tree) {
  uint64_t mask = 1;
  while (mask < uint64_t(n) * 2) mask *= 2;
  std::vector<int32_t> table(mask, -1);
  mask -= 1;
  int64_t m = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (i % (1 << 16) == 0) Monitor::tick(double(i) / double(n));
    uint64_t hash = 0;
    for (int k = 0; k < D; ++k) {
      uint64_t word;
      std::memcpy(&word, &points[i].x[k], sizeof word);
      hash = Random{hash ^ word}();
    }
    uint64_t slot = hash & mask;
    while (table[slot] >= 0 && !std::equal(points[i].x, points[i].x + D, points[table[slot]].x)) {
      slot = (slot + 1) & mask;
    }
    if (table[slot] >= 0) {
      tree.push_back({0, points[table[slot]].id, points[i].id});
    } else {
      table[slot] = static_cast<int32_t>(m);
      points[m++] = points[i];
    }
  }
  return m;
}

// Reads the points of a cloud and builds the k-d tree of the different ones. Edges to copies go to
// `tree`. Returns the first bad point, if there is one.
template <int D, class T>
Finding load(const T* points, int64_t n, int64_t dim, int threads, KdTree<D>& spatial,
             std::vector<Edge<double>>& tree) {
  Buffer<SpatialPoint<D>> buffer;
  SpatialPoint<D>* copy = buffer.reserve(n);
  Monitor::Part part(0, 0.2);
  constexpr int64_t kLoad = 4096;
  FindingLog log;
  parallel_for((n + kLoad - 1) / kLoad, threads, [&](int64_t task, int) {
    for (int64_t i = task * kLoad; i < std::min(n, (task + 1) * kLoad); ++i) {
      SpatialPoint<D>& point = copy[i];
      point.id = static_cast<int32_t>(i);
      double zero = 0;  // NaN if a coordinate is not finite
      for (int k = 0; k < D; ++k) {
        point.x[k] = k < dim ? double(points[i * dim + k]) + 0.0 : 0.0;  // -0 is 0
        zero += 0 * point.x[k];
      }
      if (zero != 0) log.add({Problem::kNonFinite, 0, i, -1}, i);
    }
  });
  Finding found = log.first();
  found.cloud = 0;
  if (found.problem != Problem::kNone) return found;
  part.set_range(0.2, 0.4);
  const int64_t m = join_copies(copy, n, tree);
  part.set_range(0.4, 1);
  spatial.build(copy, m, threads);
  return found;
}

template <int D, class T>
SpatialResult tree_of(const T* points, int64_t n, int64_t dim, Term term, int threads) {
  SpatialResult result;
  std::vector<Edge<double>>& tree = result.tree;
  tree.reserve(static_cast<size_t>(n - 1));
  Monitor::Part part(0, 0.25);
  KdTree<D> spatial;
  result.finding = load(points, n, dim, threads, spatial, tree);
  if (result.finding.problem != Problem::kNone || spatial.count() == 1) return result;
  part.set_range(0.25, 1);
  if (term == Term::kAbsolute) {
    Boruvka<D, Keys<D, Term::kAbsolute>>(spatial, threads).run(tree);
    return result;
  }
  const auto copies = static_cast<std::ptrdiff_t>(tree.size());
  Boruvka<D, Keys<D, Term::kSquared>>(spatial, threads).run(tree);
  const double least = double(underflow_limit<T>(dim));
  const double most = double(std::numeric_limits<T>::max());
  result.in_range = std::all_of(tree.begin() + copies, tree.end(), [&](const Edge<double>& e) {
    return e.length >= least && e.length <= most;
  });
  if (!result.in_range) {
    tree.resize(static_cast<size_t>(copies));
    Boruvka<D, Lengths<D>>(spatial, threads).run(tree);
  }
  return result;
}

}  // namespace

template <class T>
SpatialResult spatial_tree(const T* points, int64_t n, int64_t dim, Term term, int threads) {
  if (dim <= 1) return tree_of<1>(points, n, dim, term, threads);
  if (dim == 2) return tree_of<2>(points, n, dim, term, threads);
  if (dim == 3) return tree_of<3>(points, n, dim, term, threads);
  return tree_of<4>(points, n, dim, term, threads);
}

template SpatialResult spatial_tree(const float*, int64_t, int64_t, Term, int);
template SpatialResult spatial_tree(const double*, int64_t, int64_t, Term, int);

}  // namespace tsloss
