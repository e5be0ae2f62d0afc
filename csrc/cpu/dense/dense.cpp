#include "cpu/dense/dense.h"

#include <algorithm>
#include <cmath>

#include "cpu/rows.h"
#include "cpu/runtime/monitor.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/tree/forest.h"

namespace tsloss {
namespace {

// A tile block of two panels of rows stays in a 1 MB L2 cache.
constexpr int64_t kBlockBytes = int64_t{128} << 10;
// Prim's pass over a key takes about as long as so many coordinates; the progress counts by it.
constexpr int64_t kPrimAsDimensions = 16;

template <class T>
bool is_lattice(const Rows<T>& rows, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    if (!is_lattice_row(rows[i], rows.dim)) return false;
  }
  return true;
}

// Puts the minimum spanning tree by exact keys in the place of Prim's tree by fast ones, whose
// edges have their exact keys. A pair within the band of the longest edge on its path gets its
// exact key.
template <class T>
void decide(const T* keys, int64_t stride, int64_t n, T band, const Rows<T>& rows, Term term,
            std::vector<Edge<double>>& tree) {
  const auto refine = kernels<T>().refine;
  UnionFind sets(n);
  keep_exact_forest(tree, sets, n);
  std::vector<int32_t> order, rank;
  merge_order(tree, sets, n, order, rank);
  std::vector<T> height;
  for (const Edge<double>& e : tree) height.push_back(static_cast<T>(e.length) * band);
  std::vector<Edge<double>> found;
  for (int64_t p = 0; p + 1 < n; ++p) {
    const T* row = keys + order[p] * stride;
    int32_t longest = 0;  // the largest rank from p (exclusive) to q
    // The rows of ascending places often follow each other in memory.
    for (int64_t q = p + 1; q < n; ++q) {
      longest = std::max(longest, rank[q]);
      // Edges of length 0 are those of the tree already: their fast keys are exact.
      const T key = row[order[q]];
      if (!(key > 0 && key <= height[longest])) continue;
      const int64_t i = std::min(order[p], order[q]), j = std::max(order[p], order[q]);
      const Edge<double>& bound = tree[longest];
      if (i == bound.i && j == bound.j) continue;
      const Edge<double> edge{refine(rows[i], rows[j], rows.dim, term), i, j};
      if (edge < bound) found.push_back(edge);
    }
    if (static_cast<int64_t>(found.size()) >= 4 * n) keep_exact_forest(found, sets, n);
    Monitor::tick(double(p) / double(n));
  }
  tree.insert(tree.end(), found.begin(), found.end());
  keep_exact_forest(tree, sets, n);
}

}  // namespace

template <class T>
void keys_by_rows(const Rows<T>& rows, int64_t n, Term term, int threads, T* keys, int64_t stride) {
  const int64_t row_bytes = rows.stride * static_cast<int64_t>(sizeof(T));
  int64_t panel = std::clamp<int64_t>(kBlockBytes / row_bytes, 16, 512);
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

template <class T>
void keys_by_panels(const Rows<T>& rows, int64_t n, int64_t dim, Term term, int threads,
                    Buffer<T>& panels, T* keys, int64_t stride) {
  const Kernels<T>& table = kernels<T>();
  const int64_t count = (n + kPanel - 1) / kPanel, size = dim * kPanel;
  T* packed = panels.reserve(std::max<int64_t>(count * size, 1));
  for (int64_t p = 0; p < count; ++p) {
    const Rows<T> from{rows[p * kPanel], rows.stride, rows.dim};
    table.pack(from, std::min(kPanel, n - p * kPanel), dim, packed + p * size);
  }
  const int64_t blocks = (count + kTilePanels - 1) / kTilePanels;
  parallel_for(blocks, threads, [&](int64_t task, int) {
    const int64_t t = blocks - 1 - task;  // the longest first
    const int64_t first = t * kTilePanels;
    const int64_t width = std::min(kTilePanels, count - first);
    alignas(64) T tile[kTileRows * kTileColumns];
    for (int64_t i = 0; i < std::min(n, (first + width) * kPanel); i += kTileRows) {
      // Tiles on the diagonal start at their own panel.
      const int64_t skip = std::max<int64_t>(i / kPanel - first, 0);
      const int64_t columns = (width - skip) * kPanel, j = (first + skip) * kPanel;
      table.panel_tile(packed + i / kPanel * size + i % kPanel, packed + (first + skip) * size, dim,
                       term, width - skip, tile);
      for (int64_t r = 0; r < std::min(kTileRows, n - i); ++r) {
        std::copy_n(tile + r * kTileColumns, columns, keys + (i + r) * stride + j);
      }
      table.mirror(tile, std::min(columns, n - j), keys + j * stride + i, stride);
    }
  });
}

template <class T>
bool dense_tree(const Rows<T>& rows, int64_t n, int64_t dim, Term term, bool packed, int threads,
                DenseScratch<T>& scratch, std::vector<Edge<double>>& tree) {
  const Kernels<T>& table = kernels<T>();
  const int64_t stride = round_up(n, kLanes);
  T* keys = scratch.keys.reserve(n, stride);
  const double share = double(dim) / double(dim + kPrimAsDimensions);
  Monitor::Part part(0, share);
  if (packed) {
    keys_by_panels(rows, n, dim, term, threads, scratch.panels, keys, stride);
  } else {
    keys_by_rows(rows, n, term, threads, keys, stride);
    // Prim reads whole vectors. The numbers behind a row cannot change the tree, but they must be
    // defined.
    for (int64_t i = 0; i < n; ++i) std::fill(keys + i * stride + n, keys + (i + 1) * stride, T{0});
  }
  part.set_range(share, (share + 1) / 2);  // unless the tree is contested, this is all
  std::vector<Edge<T>>& edges = scratch.edges;
  edges.resize(static_cast<size_t>(n - 1));
  const int64_t units = packed ? table.panel_rounding(dim) : table.rounding(rows.dim);
  const T band = band_of<T>(units, rows.dim);
  const Prim found = prim_dense(keys, stride, n, band, scratch.prim, edges.data());
  if (found == Prim::kInfinite || found == Prim::kIncomplete) return false;
  tree.clear();
  for (const Edge<T>& e : edges) {
    tree.push_back({table.refine(rows[e.i], rows[e.j], rows.dim, term), e.i, e.j});
  }
  if (found == Prim::kContested && !is_lattice(rows, n)) {
    part.set_range((share + 1) / 2, 1);
    decide(keys, stride, n, band, rows, term, tree);
  }
  return true;
}

template void keys_by_rows(const Rows<float>&, int64_t, Term, int, float*, int64_t);
template void keys_by_rows(const Rows<double>&, int64_t, Term, int, double*, int64_t);
template bool dense_tree(const Rows<float>&, int64_t, int64_t, Term, bool, int,
                         DenseScratch<float>&, std::vector<Edge<double>>&);
template bool dense_tree(const Rows<double>&, int64_t, int64_t, Term, bool, int,
                         DenseScratch<double>&, std::vector<Edge<double>>&);

}  // namespace tsloss
