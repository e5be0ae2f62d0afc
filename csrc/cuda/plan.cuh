// What is launched, in which order and over which memory. `Launch` is the CUDA runtime (launch.cu)
// or the host executor of the tests. Nothing here looks at the data: a plan depends on shapes
// alone, so it can be captured in a graph.
#pragma once

#include <algorithm>

#include "cuda/backward.cuh"
#include "cuda/cloud_tree.cuh"
#include "cuda/prepare.cuh"
#include "tsloss.h"

namespace tsloss {
namespace cuda {

struct Device {
  int processors;           // multiprocessors
  int64_t shared_of_block;  // bytes, opted in
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

// How a batch of small clouds is cut up.
struct SmallPlan {
  int64_t piece;   // clouds at a time
  int64_t tiles;   // of the upper triangle
  int64_t splits;  // of the coordinates
  int64_t slice;   // coordinates of a split, a multiple of kChunk
  bool in_shared;
  int64_t shared;

  SmallPlan(const BatchShape& shape, const Device& device) {
    const int64_t n = shape.points, across = ceil_div(n, kTile);
    tiles = across * (across + 1) / 2;
    // Enough blocks to fill the device twice, of at least four chunks.
    const int64_t wanted =
        ceil_div(2 * device.processors, std::max<int64_t>(shape.batch * tiles, 1));
    const int64_t chunks = ceil_div(std::max<int64_t>(shape.dim, 1), kChunk);
    splits = std::max<int64_t>(1, std::min(wanted, chunks / 4));
    slice = ceil_div(chunks, splits) * kChunk;
    splits = std::max<int64_t>(1, ceil_div(shape.dim, slice));
    piece = std::clamp<int64_t>(kMostKeys / std::max<int64_t>(n * n * splits, 1), 1,
                                std::min(std::max<int64_t>(shape.batch, 1), kMostGrid));
    shared = bytes_of_vertices(n);
    in_shared = shared + 4 * n * n <= device.shared_of_block;
    if (in_shared) shared += 4 * n * n;
  }
};

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

// The trees of small clouds whose facts are known.
template <Term kTerm, class P, class D, class Launch>
void small_trees(Launch& launch, const BatchShape& shape, const Device& device, const P* points,
                 const Facts* facts, bool ranged, Length how, float* keys, const Outputs<D>& out) {
  const SmallPlan plan(shape, device);
  const int64_t n = shape.points, bars = shape.bars();
  for (int64_t c = 0; c < shape.batch; c += plan.piece) {
    const Batch batch{std::min(plan.piece, shape.batch - c), n, shape.dim,
                      shape.lengths ? shape.lengths + c : nullptr};
    const P* x = points + c * n * shape.dim;
    const unsigned clouds = static_cast<unsigned>(batch.clouds);
    if (n > 1) {
      launch("distance_tiles", distance_tiles<P, kTerm>,
             dim3(static_cast<unsigned>(plan.tiles), static_cast<unsigned>(plan.splits), clouds),
             dim3(kTileThreads), 0, x, batch, facts + c, ranged, plan.slice, keys);
      if (plan.splits > 1) {
        launch("sum_splits", sum_splits,
               dim3(static_cast<unsigned>(std::min<int64_t>(ceil_div(n * n, 256), 1024)), clouds),
               dim3(256), 0, batch, static_cast<int>(plan.splits), keys);
      }
    }
    const unsigned threads = n <= 32 ? 128 : n <= 128 ? 256 : kTreeThreads;
    launch("cloud_tree", cloud_tree<PointClouds<P, kTerm>, D>, dim3(clouds), dim3(threads),
           plan.shared, PointClouds<P, kTerm>{x, ranged}, batch, facts + c, keys,
           plan.splits * n * n, plan.in_shared, band_for(shape.dim, static_cast<int>(plan.splits)),
           how, out.deaths + c * bars, out.edges + 2 * c * bars, out.findings + 3 * c);
  }
}

// points -> deaths, edges and findings. Returns the bytes of workspace; with null workspace it does
// nothing else. D: the type of the deaths.
template <class P, class D, class Launch>
int64_t h0_forward(Launch& launch, Metric metric, const BatchShape& shape, const Device& device,
                   const P* points, const Outputs<D>& out, void* workspace) {
  const int64_t n = shape.points;
  Carver carver(workspace);
  Facts* facts = carver.take<Facts>(shape.batch);
  double* units =
      metric == Metric::kCosine ? carver.take<double>(shape.batch * n * shape.dim) : nullptr;
  const SmallPlan plan(shape, device);
  float* keys = carver.take<float>(plan.piece * plan.splits * n * n);
  if (!workspace || shape.batch == 0) return carver.bytes();

  const Batch batch{shape.batch, n, shape.dim, shape.lengths};
  launch("clear_facts", clear_facts, dim3(static_cast<unsigned>(ceil_div(shape.batch, 256))),
         dim3(256), 0, shape.batch, facts);
  if (n > 0) {
    launch("look_at_points", look_at_points<P>,
           dim3(static_cast<unsigned>(std::min<int64_t>(ceil_div(n, 8), 1024)),
                static_cast<unsigned>(std::min(shape.batch, kMostGrid))),
           dim3(256), 0, points, batch, facts, units);
  }
  const Length how = length_of(metric);
  if (metric == Metric::kCosine) {
    small_trees<Term::kSquared>(launch, shape, device, static_cast<const double*>(units), facts,
                                false, how, keys, out);
  } else if (metric == Metric::kManhattan) {
    small_trees<Term::kAbsolute>(launch, shape, device, points, facts, true, how, keys, out);
  } else {
    small_trees<Term::kSquared>(launch, shape, device, points, facts, true, how, keys, out);
  }
  return carver.bytes();
}

// grad_deaths -> grad_points. As h0_forward.
template <class P, class D, class Launch>
int64_t h0_backward(Launch& launch, Metric metric, const BatchShape& shape, const D* grad_deaths,
                    const P* points, const D* deaths, const int64_t* edges, P* grad_points,
                    void* workspace) {
  const int64_t n = shape.points;
  Carver carver(workspace);
  int* start = carver.take<int>(shape.batch * (n + 1));
  int* next = carver.take<int>(shape.batch * n);
  int* incident = carver.take<int>(shape.batch * 2 * shape.bars());
  if (!workspace || shape.batch == 0 || n == 0 || shape.dim == 0) return carver.bytes();

  const Batch batch{shape.batch, n, shape.dim, nullptr};
  launch("find_incident_edges", find_incident_edges, dim3(static_cast<unsigned>(shape.batch)),
         dim3(n <= 128 ? 128 : kIncidenceThreads), 0, edges, batch, start, next, incident);
  const bool whole = metric == Metric::kCosine;  // the norm of a point takes all of it
  const int64_t slices = whole ? 1 : ceil_div(shape.dim, kGradientSlice);
  launch("route_gradient", route_gradient<P, D>,
         dim3(static_cast<unsigned>(std::min<int64_t>(ceil_div(n, 4), 1 << 20)),
              static_cast<unsigned>(std::min(slices, kMostGrid)),
              static_cast<unsigned>(std::min(shape.batch, kMostGrid))),
         dim3(128), 0, metric, grad_deaths, points, deaths, edges, batch, start, incident,
         grad_points);
  return carver.bytes();
}

}  // namespace cuda
}  // namespace tsloss
