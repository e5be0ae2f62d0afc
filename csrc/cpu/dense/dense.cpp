#include "cpu/dense/dense.h"

#include <algorithm>
#include <cmath>

#include "cpu/rows.h"
#include "cpu/runtime/monitor.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/tree/collector.h"

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

// Returns Prim's tree, and all other pairs that could be in the tree of the exact keys.
template <class T>
std::vector<Link<T>> contenders(const T* keys, int64_t stride, int64_t n, T band,
                                const std::vector<Edge<T>>& edges, const Rows<T>& rows, Term term) {
  const auto refine = kernels<T>().refine;
  Collector<T> collector(n, rows.dim, band, [&](int32_t i, int32_t j) {
    return refine(rows[i], rows[j], rows.dim, term);
  });
  std::vector<char> inside(static_cast<size_t>(n), 0);
  std::vector<int32_t> order{0};
  std::vector<T> bottleneck{0};
  inside[0] = 1;
  for (const Edge<T>& e : edges) {
    const int32_t u = static_cast<int32_t>(inside[e.i] ? e.j : e.i);
    inside[u] = 1;
    if (e.length == 0) {
      collector.add({T{0}, static_cast<int32_t>(e.i), static_cast<int32_t>(e.j)});
    }
    const T* row = keys + u * stride;
    for (size_t a = 0; a < order.size(); ++a) {
      bottleneck[a] = std::max(bottleneck[a], e.length);
      const T key = row[order[a]];
      if (key > 0 && key <= bottleneck[a] * band) {
        collector.add({key, std::min(u, order[a]), std::max(u, order[a])});
      }
    }
    order.push_back(u);
    bottleneck.push_back(0);
    Monitor::tick(double(order.size()) / double(n));
  }
  std::vector<Link<T>> links = collector.links(), scratch;
  sort_by_key(links, scratch);
  UnionFind sets(n);
  keep_contenders(links, sets, n, band);
  return links;
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
  const auto exact = [&](int64_t i, int64_t j) -> Edge<double> {
    return {table.refine(rows[i], rows[j], rows.dim, term), i, j};
  };
  tree.clear();
  if (found == Prim::kCertain || is_lattice(rows, n)) {
    for (const Edge<T>& e : edges) tree.push_back(exact(e.i, e.j));
    return true;
  }
  part.set_range((share + 1) / 2, 1);
  for (const Link<T>& l : contenders(keys, stride, n, band, edges, rows, term)) {
    tree.push_back(exact(l.i, l.j));
  }
  UnionFind sets(n);
  keep_exact_forest(tree, sets, n);
  return true;
}

template void keys_by_rows(const Rows<float>&, int64_t, Term, int, float*, int64_t);
template void keys_by_rows(const Rows<double>&, int64_t, Term, int, double*, int64_t);
template bool dense_tree(const Rows<float>&, int64_t, int64_t, Term, bool, int,
                         DenseScratch<float>&, std::vector<Edge<double>>&);
template bool dense_tree(const Rows<double>&, int64_t, int64_t, Term, bool, int,
                         DenseScratch<double>&, std::vector<Edge<double>>&);

}  // namespace tsloss
