// What is launched, in which order and over which memory. `Launch` is the CUDA runtime (launch.cu)
// or the host executor of the tests. Nothing here looks at the data: a plan depends on shapes
// alone, so it can be captured in a graph.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cuda/backward.cuh"
#include "cuda/forest.cuh"
#include "cuda/matrix.cuh"
#include "cuda/prepare.cuh"
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

// Parts of one allocation. With a null base it only counts.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<unsigned char*>(base)) {}
  template <class T>
  T* take(int64_t count) {
    const int64_t at = bytes_;
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
    return base_ ? reinterpret_cast<T*>(base_ + at) : nullptr;
  }
  int64_t bytes() const { return bytes_; }

 private:
  unsigned char* base_;
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

inline Length length_of(Metric metric) {
  switch (metric) {
    case Metric::kEuclidean:
      return Length::kRoot;
    case Metric::kCosine:
      return Length::kHalf;
    default:
      return Length::kKey;
  }
}

template <class D>
struct Outputs {
  D* deaths;
  int64_t* edges;
  int64_t* findings;  // (batch, 3)
};

// Grids of a piece of a batch: a thread or a warp of 8 for each point, up to some number of blocks.
inline dim3 grid_of(int64_t blocks, int64_t clouds) {
  return dim3(static_cast<unsigned>(std::clamp<int64_t>(blocks, 1, 8192)),
              static_cast<unsigned>(std::min(clouds, kMostGrid)));
}

// The trees of a piece of a batch whose bounds are known, by all rounds.
template <class Keys, class Clouds, class D, class Launch>
void grow_forest(Launch& launch, const TreePlan& plan, Keys keys, Clouds clouds, const Batch& batch,
                 const Facts* facts, Forest forest, Band band, Length how, const Outputs<D>& out) {
  const dim3 rows = grid_of(ceil_div(batch.points, 8), batch.clouds);
  const int64_t joining = std::min<int64_t>(ceil_div(batch.points, 32) * 32, kJoinThreads);
  for (int round = 0; round < plan.rounds; ++round) {
    launch("find_least_keys", find_least_keys<Keys>, rows, dim3(256), 0, keys, batch, facts, band,
           forest);
    launch("decide_contests", decide_contests<Keys, Clouds>, rows, dim3(256), 0, keys, clouds,
           batch, facts, band, forest);
    launch("join_components", join_components, dim3(static_cast<unsigned>(batch.clouds)),
           dim3(static_cast<unsigned>(joining)), 0, batch, forest);
  }
  launch("rank_bars", rank_bars<Clouds, D>,
         dim3(static_cast<unsigned>(ceil_div(batch.points, kRankThreads)),
              static_cast<unsigned>(std::min(batch.clouds, kMostGrid))),
         dim3(kRankThreads), 0, clouds, batch, facts, forest, how, out.deaths, out.edges,
         out.findings);
}

// The trees of a piece of a batch whose keys are stored.
template <class Clouds, class D, class Launch>
void grow_stored(Launch& launch, const TreePlan& plan, Clouds clouds, const Batch& batch,
                 const Facts* facts, const float* keys, Forest forest, Band band, Length how,
                 const Outputs<D>& out) {
  const int64_t n = batch.points, of_cloud = plan.keys_of_cloud(n);
  if (plan.small) {
    const unsigned threads = n <= 32 ? 128 : n <= 128 ? 256 : kTreeThreads;
    launch("cloud_tree", cloud_tree<Clouds, D>, dim3(static_cast<unsigned>(batch.clouds)),
           dim3(threads), plan.shared, clouds, batch, facts, keys, of_cloud, plan.in_shared, band,
           how, out.deaths, out.edges, out.findings);
    return;
  }
  const StoredKeys stored{keys, of_cloud, n};
  launch("clear_forest", clear_forest, grid_of(ceil_div(n, 256), batch.clouds), dim3(256), 0, batch,
         facts, forest);
  launch("bound_segments", bound_segments, grid_of(ceil_div(n, 8), batch.clouds), dim3(256), 0,
         batch, stored, forest);
  grow_forest(launch, plan, stored, clouds, batch, facts, forest, band, how, out);
}

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

// Trees of small clouds, by one to three kernels. `known`: their facts, or null.
template <Term kTerm, class P, class D, class Launch>
void small_trees(Launch& launch, const BatchShape& shape, const Device& device, const P* points,
                 const Facts* known, bool ranged, Length how, Carver& carver, bool only_count,
                 const Outputs<D>& out) {
  const SmallPlan<PointCloud<P, kTerm>> plan(shape, device);
  const int64_t n = shape.points;
  Facts* facts = carver.take<Facts>(shape.batch * plan.parts());
  float* sums = carver.take<float>(shape.batch * plan.parts() * plan.sums);
  if (only_count) return;
  const Batch batch{shape.batch, n, shape.dim, shape.lengths};
  const dim3 threads(static_cast<unsigned>(plan.tiling.threads));
  const unsigned clouds = static_cast<unsigned>(std::min(shape.batch, kMostGrid));
  if (plan.slices > 1) {
    launch("sum_slices", sum_slices<P, kTerm>, dim3(static_cast<unsigned>(plan.slices), clouds),
           threads, plan.staging, points, batch, plan.tiling, plan.slice, sums, facts);
    if (plan.added) {
      launch("add_parts", add_parts, dim3(static_cast<unsigned>(ceil_div(plan.sums, 128)), clouds),
             dim3(128), 0, batch, static_cast<int>(plan.slices), sums);
    }
  }
  const Slices slices{sums, facts, static_cast<int>(plan.parts()),
                      static_cast<int>(plan.added ? 1 : plan.parts())};
  launch("small_cloud", small_cloud<P, kTerm, D>, dim3(static_cast<unsigned>(shape.batch)), threads,
         plan.shared, PointClouds<P, kTerm>{points, ranged}, batch, known, slices, plan.tiling,
         plan.band, how, out.deaths, out.edges, out.findings);
}

// The trees of clouds whose facts are known.
template <Term kTerm, class P, class D, class Launch>
void point_trees(Launch& launch, const BatchShape& shape, const TreePlan& plan, const P* points,
                 const Facts* facts, bool ranged, Length how, float* keys, Forest forest,
                 const Outputs<D>& out) {
  const int64_t n = shape.points;
  const Band band = band_for(shape.dim, kChunk + shape.dim / kChunk + plan.splits);
  by_pieces(shape, plan, out, [&](int64_t c, const Batch& batch, const Outputs<D>& mine) {
    const PointClouds<P, kTerm> clouds{points + c * n * shape.dim, ranged};
    const unsigned tiles = static_cast<unsigned>(plan.tiles);
    const unsigned count = static_cast<unsigned>(batch.clouds);
    if (!plan.stored) {
      launch("clear_forest", clear_forest, grid_of(ceil_div(n, 256), batch.clouds), dim3(256), 0,
             batch, facts + c, forest);
      launch("bound_tiles", bound_tiles<P, kTerm>, dim3(tiles, count), dim3(kTileThreads), 0,
             clouds.points, batch, facts + c, ranged, forest);
      grow_forest(launch, plan, ComputedKeys<P, kTerm>{clouds.points, ranged}, clouds, batch,
                  facts + c, forest, band, how, mine);
      return;
    }
    if (n > 1) {
      launch("distance_tiles", distance_tiles<P, kTerm>,
             dim3(tiles, static_cast<unsigned>(plan.splits), count), dim3(kTileThreads), 0,
             clouds.points, batch, facts + c, ranged, plan.slice, keys);
      if (plan.splits > 1) {
        launch("sum_splits", sum_splits,
               dim3(static_cast<unsigned>(std::min<int64_t>(ceil_div(n * n, 256), 1024)), count),
               dim3(256), 0, batch, static_cast<int>(plan.splits), keys);
      }
    }
    grow_stored(launch, plan, clouds, batch, facts + c, keys, forest, band, how, mine);
  });
}

template <class Launch>
void clear(Launch& launch, int64_t clouds, Facts* facts) {
  launch("clear_facts", clear_facts, dim3(static_cast<unsigned>(ceil_div(clouds, 256))), dim3(256),
         0, clouds, facts);
}

// What clouds are made of before there are trees.
template <class P, class Launch>
void look(Launch& launch, const BatchShape& shape, const P* points, Facts* facts, double* units) {
  clear(launch, shape.batch, facts);
  if (shape.points == 0) return;
  launch("look_at_points", look_at_points<P>,
         dim3(static_cast<unsigned>(std::min<int64_t>(ceil_div(shape.points, 8), 1024)),
              static_cast<unsigned>(std::min(shape.batch, kMostGrid))),
         dim3(256), 0, points, Batch{shape.batch, shape.points, shape.dim, shape.lengths}, facts,
         units);
}

// points -> deaths, edges and findings. Returns the bytes of workspace; with null workspace it does
// nothing else. D: the type of the deaths.
template <class P, class D, class Launch>
int64_t h0_forward(Launch& launch, Metric metric, const BatchShape& shape, const Device& device,
                   const P* points, const Outputs<D>& out, void* workspace) {
  const int64_t n = shape.points;
  const bool count = !workspace || shape.batch == 0;
  const bool cosine = metric == Metric::kCosine, fused = n <= std::min(device.fused, device.small);
  const Length how = length_of(metric);
  Carver carver(workspace);
  Facts* facts = carver.take<Facts>(!fused || cosine ? shape.batch : 0);
  double* units = carver.take<double>(cosine ? shape.batch * n * shape.dim : 0);
  if (!count && (!fused || cosine)) look(launch, shape, points, facts, cosine ? units : nullptr);
  const auto grow = [&](auto term, const auto* numbers, bool ranged) {
    constexpr Term kTerm = decltype(term)::value;
    if (fused) {
      return small_trees<kTerm>(launch, shape, device, numbers, cosine ? facts : nullptr, ranged,
                                how, carver, count, out);
    }
    const TreePlan plan(shape, device);
    float* keys = carver.take<float>(plan.piece * plan.keys_of_cloud(n));
    const Forest forest = carve_forest(carver, plan, n);
    if (count) return;
    point_trees<kTerm>(launch, shape, plan, numbers, facts, ranged, how, keys, forest, out);
  };
  using Squared = std::integral_constant<Term, Term::kSquared>;
  using Absolute = std::integral_constant<Term, Term::kAbsolute>;
  if (cosine) {
    grow(Squared{}, units, false);
  } else if (metric == Metric::kManhattan) {
    grow(Absolute{}, points, true);
  } else {
    grow(Squared{}, points, true);
  }
  return carver.bytes();
}

// distances (batch, points, points) -> deaths, edges and findings, as h0_forward.
template <class P, class Launch>
int64_t h0_from_distances(Launch& launch, const BatchShape& shape, const Device& device,
                          const P* distances, double tolerance, const Outputs<P>& out,
                          void* workspace) {
  const int64_t n = shape.points;
  const TreePlan plan(shape, device, true);
  Carver carver(workspace);
  Facts* facts = carver.take<Facts>(shape.batch);
  float* keys = carver.take<float>(plan.piece * plan.keys_of_cloud(n));
  const Forest forest = carve_forest(carver, plan, n);
  if (!workspace || shape.batch == 0) return carver.bytes();

  clear(launch, shape.batch, facts);
  const int64_t across = ceil_div(n, kMatrixTile);
  by_pieces(shape, plan, out, [&](int64_t c, const Batch& batch, const Outputs<P>& mine) {
    const MatrixClouds<P> clouds{distances + c * n * n};
    if (n > 0) {
      launch("look_at_matrices", look_at_matrices<P>,
             dim3(static_cast<unsigned>(across * (across + 1) / 2),
                  static_cast<unsigned>(batch.clouds)),
             dim3(256), 0, clouds.distances, batch, tolerance, facts + c, keys);
    }
    grow_stored(launch, plan, clouds, batch, facts + c, keys, forest, band_for(0, kChunk),
                Length::kKey, mine);
  });
  return carver.bytes();
}

// grad_deaths -> grad_points. As h0_forward. In clouds of up to `small` points each vertex looks
// for its edges itself.
template <class P, class D, class Launch>
int64_t h0_backward(Launch& launch, Metric metric, const BatchShape& shape, int64_t small,
                    const D* grad_deaths, const P* points, const D* deaths, const int64_t* edges,
                    P* grad_points, void* workspace) {
  const int64_t n = shape.points;
  const bool listed = n > small;
  Carver carver(workspace);
  int* start = carver.take<int>(listed ? shape.batch * (n + 1) : 0);
  int* next = carver.take<int>(listed ? shape.batch * n : 0);
  int* incident = carver.take<int>(listed ? shape.batch * 2 * shape.bars() : 0);
  if (!workspace || shape.batch == 0 || n == 0 || shape.dim == 0) return carver.bytes();

  const Batch batch{shape.batch, n, shape.dim, nullptr};
  if (listed) {
    launch("find_incident_edges", find_incident_edges, dim3(static_cast<unsigned>(shape.batch)),
           dim3(kIncidenceThreads), 0, edges, batch, start, next, incident);
  }
  const bool cosine = metric == Metric::kCosine;  // the norm of a point takes all of it
  const int64_t slices = cosine ? 1 : ceil_div(shape.dim, kGradientSlice);
  launch("route_gradient", cosine ? route_gradient<P, D, true> : route_gradient<P, D, false>,
         dim3(static_cast<unsigned>(std::min<int64_t>(ceil_div(n, 4), 1 << 20)),
              static_cast<unsigned>(std::min(slices, kMostGrid)),
              static_cast<unsigned>(std::min(shape.batch, kMostGrid))),
         dim3(128), 0, metric, grad_deaths, points, deaths, edges, batch, listed ? start : nullptr,
         incident, grad_points);
  return carver.bytes();
}

}  // namespace cuda
}  // namespace tsloss
