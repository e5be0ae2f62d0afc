// What is launched, in which order and over which memory. `Launch` is the CUDA runtime (launch.cu)
// or the host executor of the tests. Nothing here looks at the data: a plan depends on shapes
// alone, so it can be captured in a graph.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cuda/backward.cuh"
#include "cuda/forest_bounds.cuh"
#include "cuda/forest_rounds.cuh"
#include "cuda/matrix.cuh"
#include "cuda/plan.cuh"
#include "cuda/prepare.cuh"
#include "cuda/small_cloud.cuh"

namespace tsloss {
namespace cuda {

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

inline dim3 dim3_of(int64_t x, int64_t y = 1, int64_t z = 1) {
  return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
}

// Grids of a piece of a batch: a thread or a warp of 8 for each point, up to some number of blocks.
inline dim3 grid_of(int64_t blocks, int64_t clouds) {
  return dim3_of(std::clamp<int64_t>(blocks, 1, 8192), std::min(clouds, kMostGrid));
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
    launch("join_components", join_components, dim3_of(batch.clouds), dim3_of(joining), 0, batch,
           forest);
  }
  launch("rank_bars", rank_bars<Clouds, D>,
         dim3_of(ceil_div(batch.points, kRankThreads), std::min(batch.clouds, kMostGrid)),
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
    launch("cloud_tree", cloud_tree<Clouds, D>, dim3_of(batch.clouds), dim3(threads), plan.shared,
           clouds, batch, facts, keys, of_cloud, plan.in_shared, band, how, out.deaths, out.edges,
           out.findings);
    return;
  }
  const StoredKeys stored{keys, of_cloud, n};
  launch("clear_forest", clear_forest, grid_of(ceil_div(n, 256), batch.clouds), dim3(256), 0, batch,
         facts, forest);
  launch("bound_segments", bound_segments, grid_of(ceil_div(n, 8), batch.clouds), dim3(256), 0,
         batch, stored, forest);
  grow_forest(launch, plan, stored, clouds, batch, facts, forest, band, how, out);
}

// Trees of small clouds, by one to three kernels. `known`: their facts, or null.
template <Term kTerm, class P, class D, class Launch>
void small_trees(Launch& launch, const BatchShape& shape, const Device& device, const P* points,
                 const Facts* known, bool ranged, Length how, Carver& carver,
                 const Outputs<D>& out) {
  const SmallPlan<PointCloud<P, kTerm>> plan(shape, device);
  const int64_t n = shape.points;
  Facts* facts = carver.take<Facts>(shape.batch * plan.parts());
  float* sums = carver.take<float>(shape.batch * plan.parts() * plan.sums);
  if (carver.counts() || shape.batch == 0) return;
  const Batch batch{shape.batch, n, shape.dim, shape.lengths};
  const dim3 threads = dim3_of(plan.tiling.threads);
  const int64_t clouds = std::min(shape.batch, kMostGrid);
  if (plan.slices > 1) {
    launch("sum_slices", sum_slices<P, kTerm>, dim3_of(plan.slices, clouds), threads, plan.staging,
           points, batch, plan.tiling, plan.slice, sums, facts);
    if (plan.added) {
      launch("add_parts", add_parts, dim3_of(ceil_div(plan.sums, 128), clouds), dim3(128), 0, batch,
             static_cast<int>(plan.slices), sums);
    }
  }
  const Slices slices{sums, facts, static_cast<int>(plan.parts()),
                      static_cast<int>(plan.added ? 1 : plan.parts())};
  launch("small_cloud", small_cloud<P, kTerm, D>, dim3_of(shape.batch), threads, plan.shared,
         PointClouds<P, kTerm>{points, ranged}, batch, known, slices, plan.tiling, plan.band, how,
         out.deaths, out.edges, out.findings);
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
    if (!plan.stored) {
      launch("clear_forest", clear_forest, grid_of(ceil_div(n, 256), batch.clouds), dim3(256), 0,
             batch, facts + c, forest);
      launch("bound_tiles", bound_tiles<P, kTerm>, dim3_of(plan.tiles, batch.clouds),
             dim3(kTileThreads), 0, clouds.points, batch, facts + c, ranged, forest);
      grow_forest(launch, plan, ComputedKeys<P, kTerm>{clouds.points, ranged}, clouds, batch,
                  facts + c, forest, band, how, mine);
      return;
    }
    if (n > 1) {
      launch("distance_tiles", distance_tiles<P, kTerm>,
             dim3_of(plan.tiles, plan.splits, batch.clouds), dim3(kTileThreads), 0, clouds.points,
             batch, facts + c, ranged, plan.slice, keys);
      if (plan.splits > 1) {
        launch("sum_splits", sum_splits,
               dim3_of(std::min<int64_t>(ceil_div(n * n, 256), 1024), batch.clouds), dim3(256), 0,
               batch, static_cast<int>(plan.splits), keys);
      }
    }
    grow_stored(launch, plan, clouds, batch, facts + c, keys, forest, band, how, mine);
  });
}

template <class Launch>
void clear(Launch& launch, int64_t clouds, Facts* facts) {
  launch("clear_facts", clear_facts, dim3_of(ceil_div(clouds, 256)), dim3(256), 0, clouds, facts);
}

// What clouds are made of before there are trees.
template <class P, class Launch>
void look(Launch& launch, const BatchShape& shape, const P* points, Facts* facts, double* units) {
  clear(launch, shape.batch, facts);
  if (shape.points == 0) return;
  launch(
      "look_at_points", look_at_points<P>,
      dim3_of(std::min<int64_t>(ceil_div(shape.points, 8), 1024), std::min(shape.batch, kMostGrid)),
      dim3(256), 0, points, Batch{shape.batch, shape.points, shape.dim, shape.lengths}, facts,
      units);
}

// points -> deaths, edges and findings. Returns the bytes of workspace that it takes from `carver`,
// and launches nothing where that only counts. D: the type of the deaths.
template <class P, class D, class Launch>
int64_t h0_forward(Launch& launch, Metric metric, const BatchShape& shape, const Device& device,
                   const P* points, const Outputs<D>& out, Carver carver) {
  const int64_t n = shape.points;
  const bool count = carver.counts() || shape.batch == 0;
  const bool cosine = metric == Metric::kCosine, fused = n <= std::min(device.fused, device.small);
  const Length how = length_of(metric);
  Facts* facts = carver.take<Facts>(!fused || cosine ? shape.batch : 0);
  double* units = carver.take<double>(cosine ? shape.batch * n * shape.dim : 0);
  if (!count && (!fused || cosine)) look(launch, shape, points, facts, cosine ? units : nullptr);
  const auto grow = [&](auto term, const auto* numbers, bool ranged) {
    constexpr Term kTerm = decltype(term)::value;
    if (fused) {
      return small_trees<kTerm>(launch, shape, device, numbers, cosine ? facts : nullptr, ranged,
                                how, carver, out);
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
                          Carver carver) {
  const int64_t n = shape.points;
  const TreePlan plan(shape, device, true);
  Facts* facts = carver.take<Facts>(shape.batch);
  float* keys = carver.take<float>(plan.piece * plan.keys_of_cloud(n));
  const Forest forest = carve_forest(carver, plan, n);
  if (carver.counts() || shape.batch == 0) return carver.bytes();

  clear(launch, shape.batch, facts);
  const int64_t across = ceil_div(n, kMatrixTile);
  by_pieces(shape, plan, out, [&](int64_t c, const Batch& batch, const Outputs<P>& mine) {
    const MatrixClouds<P> clouds{distances + c * n * n};
    if (n > 0) {
      launch("look_at_matrices", look_at_matrices<P>,
             dim3_of(across * (across + 1) / 2, batch.clouds), dim3(256), 0, clouds.distances,
             batch, tolerance, facts + c, keys);
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
                    P* grad_points, Carver carver) {
  const int64_t n = shape.points;
  const bool listed = n > small;
  int* start = carver.take<int>(listed ? shape.batch * (n + 1) : 0);
  int* next = carver.take<int>(listed ? shape.batch * n : 0);
  int* incident = carver.take<int>(listed ? shape.batch * 2 * shape.bars() : 0);
  if (carver.counts() || shape.batch == 0 || n == 0 || shape.dim == 0) return carver.bytes();

  const Batch batch{shape.batch, n, shape.dim, nullptr};
  if (listed) {
    launch("find_incident_edges", find_incident_edges, dim3_of(shape.batch),
           dim3(kIncidenceThreads), 0, edges, batch, start, next, incident);
  }
  const bool cosine = metric == Metric::kCosine;  // the norm of a point takes all of it
  const int64_t slices = cosine ? 1 : ceil_div(shape.dim, kGradientSlice);
  launch("route_gradient", cosine ? route_gradient<P, D, true> : route_gradient<P, D, false>,
         dim3_of(std::min<int64_t>(ceil_div(n, 4), 1 << 20), std::min(slices, kMostGrid),
                 std::min(shape.batch, kMostGrid)),
         dim3(128), 0, metric, grad_deaths, points, deaths, edges, batch, listed ? start : nullptr,
         incident, grad_points);
  return carver.bytes();
}

}  // namespace cuda
}  // namespace tsloss
