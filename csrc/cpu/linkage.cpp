// Single linkage: the clusters that the edges of a tree merge, in ascending order of death.
#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "cpu/check_edge.h"
#include "cpu/tree/union_find.h"
#include "tsloss.h"

namespace tsloss {

void single_linkage(int64_t batch, int64_t points, const int64_t* edges, int64_t* merges) {
  if (points < 2) return;
  std::vector<int64_t> cluster(static_cast<size_t>(points));  // id of the cluster at each root
  for (int64_t b = 0; b < batch; ++b) {
    UnionFind sets(points);
    std::iota(cluster.begin(), cluster.end(), int64_t{0});
    for (int64_t k = 0; k + 1 < points; ++k, edges += 2, merges += 3) {
      const Ends ends = read_edge(edges, points);
      const int64_t a = sets.find(ends.i);
      const int64_t c = sets.find(ends.j);
      if (a == c) throw std::invalid_argument("edges: not a spanning tree: they contain a cycle");
      const auto [low, high] = std::minmax(cluster[a], cluster[c]);
      merges[0] = low;
      merges[1] = high;
      const int64_t root = sets.unite(a, c);
      merges[2] = sets.size(root);
      cluster[root] = points + k;
    }
  }
}

}  // namespace tsloss
