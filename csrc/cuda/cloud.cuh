// A cloud, as the kernels see it: by its points, or by its distance matrix.
#pragma once

#include "cuda/numbers.cuh"

namespace tsloss {
namespace cuda {

// A batch on the device. `lengths` may be null.
struct Batch {
  int64_t clouds, points, dim;
  const int64_t* lengths;

  __host__ __device__ __forceinline__ int64_t bars() const { return points > 0 ? points - 1 : 0; }
  // Nobody has looked at the lengths: what is out of range must not become a wild pointer.
  __device__ __forceinline__ int valid(int64_t cloud) const {
    const int64_t n = lengths ? lengths[cloud] : points;
    return static_cast<int>(n < 0 ? 0 : n > points ? points : n);
  }
};

template <class P>
struct StagedNumber {
  using Type = float;
};
template <>
struct StagedNumber<double> {
  using Type = double;
};

template <class P, Term kTermOfCloud>
struct PointCloud {
  using Number = P;
  using Staged = typename StagedNumber<P>::Type;  // in shared memory
  static constexpr Term kTerm = kTermOfCloud;

  const P* points;
  int64_t dim;
  double scale;
  bool robust;  // squares leave the range of double: exact keys are lengths

  __device__ __forceinline__ Staged scaled(P x) const {
    const auto wide = widen(x);
    return scale == 1 ? Staged(wide) : static_cast<Staged>(static_cast<double>(wide) * scale);
  }
  __device__ __forceinline__ Staged staged(int64_t i, int64_t k) const {
    return scaled(points[i * dim + k]);
  }

  // For whole warps; each half of one may have a pair of its own.
  __device__ __forceinline__ u64 exact(int i, int j) const {
    const P* x = points + i * dim;
    const P* y = points + j * dim;
    const double key = robust ? robust_length(x, y, dim) : exact_sum<kTerm>(x, y, dim);
    return key >= 0 ? bits_of(key) : kInfiniteBits;
  }

  __device__ __forceinline__ double length(u64 exact, Length how) const {
    const double key = double_of(exact);
    if (how == Length::kHalf) return 0.5 * key;
    if (robust) return how == Length::kKey && kTerm == Term::kSquared ? __dmul_rn(key, key) : key;
    return how == Length::kRoot ? __dsqrt_rn(key) : key;
  }
};

// `ranged`: whether squares of the numbers may leave the range (not those of unit vectors).
template <class P, Term kTerm>
__device__ PointCloud<P, kTerm> point_cloud(const P* points, const Batch& batch, int64_t cloud,
                                            const Facts& facts, bool ranged) {
  const bool robust = sizeof(P) == 8 && kTerm == Term::kSquared && ranged &&
                      (double_of(facts.largest) > kMost ||
                       (facts.smallest != kNoExact && double_of(facts.smallest) < kLeast));
  return {points + cloud * batch.points * batch.dim, batch.dim, scale_of(facts.largest), robust};
}

// Clouds by number, for the trees.
template <class P, Term kTerm>
struct PointClouds {
  const P* points;
  bool ranged;

  __device__ PointCloud<P, kTerm> cloud(int64_t c, const Batch& batch, const Facts& facts) const {
    return point_cloud<P, kTerm>(points, batch, c, facts, ranged);
  }
  __device__ int64_t first(u64 problem, const Batch&) const {
    return problem == kNoExact ? -1 : static_cast<int64_t>(problem >> 8);
  }
  __device__ int64_t second(u64, const Batch&) const { return -1; }
};

// Of an entry and its mirror image, which differ by rounding at most.
template <class P>
__device__ __forceinline__ P mean_of(P a, P b) {
  const P mean = a == b ? a : P(0.5) * a + P(0.5) * b;
  return mean == 0 ? P{0} : mean;  // not the negative one
}

// Distances of one cloud, (n, n) within (stride, stride).
template <class P>
struct MatrixCloud {
  const P* distances;
  int64_t stride;

  __device__ __forceinline__ u64 exact(int i, int j) const {
    const double key = mean_of(distances[i * stride + j], distances[j * stride + i]);
    return key >= 0 ? bits_of(key) : kInfiniteBits;
  }
  __device__ __forceinline__ double length(u64 exact, Length) const { return double_of(exact); }
};

// The nearest of the points that a warp looks at, by exact keys.
template <class Cloud>
struct Nearest {
  const Cloud& cloud;
  int row;
  u64 exact = kNoExact;
  int partner = -1;

  __device__ Nearest(const Cloud& of, int point) : cloud(of), row(point) {}

  // Points base + k for the bits k of `hits`, two at a time and in ascending order: among equals
  // the first makes the smallest edge, and nothing is below 0.
  __device__ void take(int base, u32 hits) {
    while (hits && exact != 0) {
      const int one = __ffs(static_cast<int>(hits)) - 1;
      hits &= hits - 1;
      const int two = hits ? __ffs(static_cast<int>(hits)) - 1 : one;
      hits &= hits - 1;
      const u64 found = cloud.exact(row, base + (threadIdx.x % 32 < 16 ? one : two));
      const u64 first = __shfl_sync(kAll, found, 0), second = __shfl_sync(kAll, found, 16);
      if (first < exact) exact = first, partner = base + one;
      if (second < exact) exact = second, partner = base + two;
    }
  }
};

// Tile number t of the upper triangle of a square of `across` tiles, row by row.
__device__ __forceinline__ void tile_at(int t, int across, int* row, int* column) {
  int i = 0;
  while (t >= across - i) t -= across - i++;
  *row = i;
  *column = i + t;
}

}  // namespace cuda
}  // namespace tsloss
