// The minimum spanning trees of clouds of more than kSmallCloud points, by the whole device:
// Boruvka's algorithm in rounds of three kernels, by the same order of edges as cloud_tree.cuh.
//
// The columns of a row are cut into segments. `bounds` holds for each row and segment a key below
// which no edge to another component lies. As components only grow, a bound stays true once it is
// found, so a row looks again only at the segments whose bounds are the least, and raises them: a
// few segments of a row in each round instead of all its columns.
#pragma once

#include "cuda/cloud.cuh"

namespace tsloss {
namespace cuda {

struct Link {
  u64 edge;   // smaller point << 32 | larger point
  u64 exact;  // its exact key
};

// Of a component, which is named after one of its points.
struct Component {
  u64 exact;  // least exact key to another
  u64 pick;   // the edge with it
  u32 least;  // least fast key that was seen
};

// Trees of a batch while they grow: (clouds, points) each, but for `found` (clouds) and `bounds`
// (clouds, points, segments).
struct Forest {
  int* component;     // of a point
  Component* of;      // by name
  u32* least_of_row;  // no edge of this point to another component has a fast key below
  u64* exact_of_row;  // kNoExact where a row is not contested
  int* partner;       // with exact_of_row; then, of a component, whether it names others
  int* next;          // the component that one joins
  int* jump;          // scratch
  Link* links;        // edges of the tree
  u32* found;         // how many; all clouds of which nothing is asked look finished
  u32* bounds;
  int64_t points, segments, width;

  // The part of one cloud.
  __device__ Forest at(int64_t c) const {
    const int64_t first = c * points;
    return {component + first,
            of + first,
            least_of_row + first,
            exact_of_row + first,
            partner + first,
            next + first,
            jump + first,
            links + first,
            found + c,
            bounds + first * segments,
            points,
            segments,
            width};
  }
  __device__ __forceinline__ bool finished(int n) const {
    return static_cast<int64_t>(*found) + 1 >= n;
  }
  __device__ __forceinline__ u32* bounds_of(int64_t row) const { return bounds + row * segments; }
};

// body(number, forest, points) for the clouds of a block whose trees are not finished. Grid: (any,
// clouds).
template <class F>
__device__ __forceinline__ void for_growing(const Batch& batch, const Forest& forests, F&& body) {
  for (int64_t c = blockIdx.y; c < batch.clouds; c += gridDim.y) {
    const Forest forest = forests.at(c);
    const int n = batch.valid(c);
    if (!forest.finished(n)) body(c, forest, n);
  }
}

// body(row) for the rows of a warp.
template <class F>
__device__ __forceinline__ void for_rows(int n, F&& body) {
  for (int64_t row = (blockIdx.x * blockDim.x + threadIdx.x) / 32; row < n;
       row += static_cast<int64_t>(gridDim.x) * (blockDim.x / 32)) {
    body(row);
  }
}

// Grid: (any, clouds).
__global__ void __launch_bounds__(256, 4)
    clear_forest(Batch batch, const Facts* facts, Forest forests) {
  for (int64_t c = blockIdx.y; c < batch.clouds; c += gridDim.y) {
    const Forest forest = forests.at(c);
    const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = first; i < batch.points; i += step) {
      forest.component[i] = static_cast<int>(i);
      forest.of[i] = {kNoExact, kNoExact, kNoKey};
    }
    for (int64_t t = first; t < batch.points * forest.segments; t += step) {
      forest.bounds[t] = kNoKey;
    }
    if (first == 0) {
      *forest.found = has_tree(facts[c].problem) ? 0 : static_cast<u32>(batch.points);
    }
  }
}

}  // namespace cuda
}  // namespace tsloss
