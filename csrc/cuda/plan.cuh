// How a batch is cut up, and the memory that it takes. A plan depends on shapes alone.
#pragma once

#include <algorithm>

#include "cuda/cloud_tree.cuh"
#include "cuda/distances.cuh"
#include "cuda/forest.cuh"
#include "cuda/tiling.cuh"
#include "tsloss.h"

namespace tsloss {
namespace cuda {

struct Device {
  int processors;           // multiprocessors
  int64_t shared_of_block;  // bytes, opted in
  // Clouds of up to `small` points have a block each, and those of up to `fused` points need little
  // else; keys of up to `stored` points are stored.
  int64_t small = kSmallCloud;
  int64_t stored = 8192;
  int64_t fused = kFusedCloud;
};

// Parts of one allocation, which may be null if it needs no bytes. Where `counting` it has none,
// and tells how many bytes one needs.
class Carver {
 public:
  static Carver counting() { return Carver(nullptr, true); }
  explicit Carver(void* base) : Carver(base, false) {}
  template <class T>
  T* take(int64_t count) {
    const int64_t at = bytes_;
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
    return counts_ || count == 0 ? nullptr : reinterpret_cast<T*>(base_ + at);
  }
  bool counts() const { return counts_; }
  int64_t bytes() const { return bytes_; }

 private:
  Carver(void* base, bool counts) : base_(static_cast<unsigned char*>(base)), counts_(counts) {}

  unsigned char* base_;
  bool counts_;
  int64_t bytes_ = 0;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int64_t kMostKeys = int64_t{1} << 26;  // numbers of a piece of a batch: 256 MiB
constexpr int64_t kMostGrid = 65535;             // of the second and third dimension

constexpr int64_t kMostSegments = 512;   // of a row
constexpr int64_t kMostAdded = 1 << 15;  // sums that the block of a small cloud adds by itself

// How a batch is cut up.
struct TreePlan {
  bool small;        // a block for each cloud, else a forest
  bool stored;       // keys in memory
  int64_t piece;     // clouds at a time
  int64_t tiles;     // of the upper triangle
  int64_t splits;    // of the coordinates
  int64_t slice;     // coordinates of a split, a multiple of kChunk
  bool in_shared;    // keys of a small cloud
  int64_t shared;    // bytes
  int64_t width;     // columns of a segment, a multiple of kTile
  int64_t segments;  // of a row of a forest
  int rounds;        // enough for any forest: a round at least halves the number of components

  TreePlan(const BatchShape& shape, const Device& device, bool matrix = false) {
    const int64_t n = shape.points, across = ceil_div(n, kTile);
    small = n <= device.small;
    stored = small || matrix || n <= device.stored;
    tiles = across * (across + 1) / 2;
    // Enough blocks to fill the device twice, of at least four chunks.
    const int64_t wanted =
        ceil_div(2 * device.processors, std::max<int64_t>(shape.batch * tiles, 1));
    const int64_t chunks = matrix ? 1 : ceil_div(std::max<int64_t>(shape.dim, 1), kChunk);
    splits = stored ? std::max<int64_t>(1, std::min(wanted, chunks / 4)) : 1;
    slice = ceil_div(chunks, splits) * kChunk;
    splits = std::max<int64_t>(1, matrix ? 1 : ceil_div(shape.dim, slice));
    width = ceil_div(ceil_div(n, kMostSegments), kTile) * kTile;
    segments = small ? 0 : ceil_div(n, width);
    rounds = 0;
    while (int64_t{1} << rounds < n) ++rounds;
    piece = std::clamp<int64_t>(kMostKeys / std::max(keys_of_cloud(n) + n * segments, int64_t{1}),
                                1, std::min(std::max<int64_t>(shape.batch, 1), kMostGrid));
    shared = bytes_of_vertices(n);
    in_shared = shared + 4 * n * n <= device.shared_of_block;
    if (in_shared) shared += 4 * n * n;
  }

  int64_t keys_of_cloud(int64_t n) const { return stored ? splits * n * n : 0; }
};

inline Forest carve_forest(Carver& carver, const TreePlan& plan, int64_t n) {
  if (plan.small) return {};
  const int64_t all = plan.piece * n;
  Forest forest{};
  forest.component = carver.take<int>(all);
  forest.of = carver.take<Component>(all);
  forest.least_of_row = carver.take<u32>(all);
  forest.exact_of_row = carver.take<u64>(all);
  forest.partner = carver.take<int>(all);
  forest.next = carver.take<int>(all);
  forest.jump = carver.take<int>(all);
  forest.links = carver.take<Link>(all);
  forest.found = carver.take<u32>(plan.piece);
  forest.bounds = carver.take<u32>(all * plan.segments);
  forest.points = n;
  forest.segments = plan.segments;
  forest.width = plan.width;
  return forest;
}

// How small clouds are cut up.
template <class Cloud>
struct SmallPlan {
  static constexpr int kBytes = static_cast<int>(sizeof(typename Cloud::Staged));

  Tiling tiling;
  int64_t slices, slice;    // blocks of a cloud before that of its tree, if above 1; coordinates
  bool added;               // by a kernel of its own
  int64_t sums;             // of one slice of one cloud
  int64_t staging, shared;  // bytes
  Band band;

  SmallPlan(const BatchShape& shape, const Device& device) : tiling(shape.points, kBytes) {
    const int64_t chunks = ceil_div(std::max<int64_t>(shape.dim, 1), tiling.width);
    // A block for each multiprocessor, unless the clouds alone are enough.
    const int64_t wanted =
        std::max<int64_t>(1, device.processors / std::max<int64_t>(shape.batch, 1));
    slice = ceil_div(chunks, std::min(wanted, chunks)) * tiling.width;
    slices = ceil_div(std::max<int64_t>(shape.dim, 1), slice);
    sums = int64_t{16} * tiles_of(shape.points);
    added = slices > 1 && slices * sums > kMostAdded;
    staging = bytes_of_staging(shape.points, tiling, kBytes);
    shared =
        bytes_of_vertices(shape.points) + ceil_div(shape.points * shape.points, 4) * 16 + staging;
    band = band_for(shape.dim, slice / tiling.slices + tiling.slices + slices);
  }
  int64_t parts() const { return slices > 1 ? slices : 0; }
};

template <class D>
struct Outputs {
  D* deaths;
  int64_t* edges;
  int64_t* findings;  // (batch, 3)
};

// body(first cloud, the piece that begins there, what is written for it) for all pieces of a batch.
template <class D, class F>
void by_pieces(const BatchShape& shape, const TreePlan& plan, const Outputs<D>& out, F&& body) {
  const int64_t bars = shape.bars();
  for (int64_t c = 0; c < shape.batch; c += plan.piece) {
    const Batch batch{std::min(plan.piece, shape.batch - c), shape.points, shape.dim,
                      shape.lengths ? shape.lengths + c : nullptr};
    body(c, batch,
         Outputs<D>{out.deaths + c * bars, out.edges + 2 * c * bars, out.findings + 3 * c});
  }
}

}  // namespace cuda
}  // namespace tsloss
