// The native API of tsloss_fast: 0-dimensional Vietoris-Rips persistence of point clouds.
//
// No torch and no Python below this line. Every array is C-contiguous, lives on the host and
// belongs to the caller; sizes are 64-bit. All functions may throw std::bad_alloc and are safe to
// call from several threads at once.
#pragma once

#include <cstdint>
#include <vector>

namespace tsloss {

enum class Dtype : int { kFloat32 = 0, kFloat64 = 1 };

enum class Metric : int { kEuclidean = 0, kSqeuclidean = 1, kCosine = 2, kManhattan = 3 };

// What is wrong with an input. A cloud with a problem gets NaN deaths and a valid spanning tree; it
// never touches another cloud. Infinite lengths (kOverflow, and infinite distances of a matrix) do
// not make other deaths of the cloud NaN.
enum class Problem : int {
  kNone = 0,
  kNonFinite = 1,   // point i of the cloud, or entry (i, j) of the distance matrix
  kZeroVector = 2,  // point i, under the cosine metric
  kOverflow = 3,    // the length of tree edge (i, j) is above the largest finite number
  kNegative = 4,    // entry (i, j) of the distance matrix
  kDiagonal = 5,    // entry (i, i) is not zero
  kAsymmetric = 6,  // entries (i, j) and (j, i) differ
};

// The first problem by cloud index; `problem` is kNone when there is none.
struct Finding {
  Problem problem = Problem::kNone;
  int64_t cloud = -1;
  int64_t i = -1;
  int64_t j = -1;
};

// A batch of `batch` clouds of up to `points` points. `lengths` (batch entries, each in [0,
// points]) gives the valid points of each cloud; null means all.
//
// Or a ragged one, without padding: cloud c has the points from offsets[c] to offsets[c + 1] of
// all, and the bars from bar_offsets[c] to bar_offsets[c + 1]; then `points` is the most that a
// cloud has.
struct BatchShape {
  int64_t batch = 0;
  int64_t points = 0;
  int64_t dim = 0;
  const int64_t* lengths = nullptr;
  const int64_t* offsets = nullptr;
  const int64_t* bar_offsets = nullptr;

  int64_t bars() const { return points > 0 ? points - 1 : 0; }
  // Clamped: lengths that are written to after they were checked must not become wild pointers.
  int64_t valid(int64_t c) const {
    if (!lengths) return points_of(c);
    const int64_t n = lengths[c];
    return n < 0 ? 0 : n > points ? points : n;
  }
  // Where cloud c begins, and how much room it has.
  int64_t first_point(int64_t c) const { return offsets ? offsets[c] : c * points; }
  int64_t points_of(int64_t c) const { return offsets ? offsets[c + 1] - offsets[c] : points; }
  int64_t first_bar(int64_t c) const { return offsets ? bar_offsets[c] : c * bars(); }
  int64_t bars_of(int64_t c) const {
    return offsets ? bar_offsets[c + 1] - bar_offsets[c] : bars();
  }
};

// Throws std::invalid_argument, which names the first bad cloud, unless all lengths are in
// [0, points].
void check_lengths(const BatchShape& shape);

// Where the bars of each cloud begin, (batch + 1), from where its points do (offsets, batch + 1).
// Throws std::invalid_argument unless the offsets ascend from 0 to `rows`.
std::vector<int64_t> bar_offsets_of(int64_t batch, const int64_t* offsets, int64_t rows);

// points (batch, points, dim) -> deaths (batch, points-1) ascending, edges (batch, points-1, 2)
// with edges[.., 0] < edges[.., 1], ordered by (death, smaller index, larger index). Padding:
// deaths 0, edges -1. O(N^2 D) time; O(N D) memory per cloud, plus N^2 keys for clouds of a few
// hundred points (see cpu/tuning.h). In up to four dimensions clouds of more points take O(N log N)
// time in practice, and O(N) memory, except under cosine.
Finding h0_forward(Dtype dtype, Metric metric, const BatchShape& shape, const void* points,
                   void* deaths, int64_t* edges, int threads);

// grad_points (batch, points, dim) = the gradient routed through the critical edges, overwritten
// whole. Each vertex sums its edges in death order, so the result does not depend on threads. O(N
// D).
void h0_backward(Dtype dtype, Metric metric, const BatchShape& shape, const void* grad_deaths,
                 const void* points, const void* deaths, const int64_t* edges, void* grad_points,
                 int threads);

// distances (batch, points, points) -> the same outputs. Entries may differ from their mirror image
// by `symmetry_tolerance` relative to the larger of the two; their mean is used. An infinite
// distance is a missing edge, and a death is infinite if no finite distance ends its bar; the first
// one is reported (kNonFinite) if no matrix of the batch has another problem than NaN. O(N^2).
Finding h0_from_distances(Dtype dtype, const BatchShape& shape, const void* distances,
                          double symmetry_tolerance, void* deaths, int64_t* edges, int threads);

// Where a number and its derivatives by the deaths (batch, points-1) are written; null: nowhere.
struct DerivedValue {
  void* value = nullptr;
  void* grad = nullptr;
};

// deaths (batch, points-1) -> the mean over the clouds of
//   spread = Var(d) / m^2  and  shortness = mean(max(0, 1 - d / (rho m))^2),  m = mean(d),
// both 0 for a cloud with m = 0, and loss = connectivity * spread + redundancy * shortness.
// Derivatives are 0 in the padding. Returns how many clouds have bars that are all 0.
// O(batch * points).
int64_t scale_free_loss(Dtype dtype, const BatchShape& shape, const void* deaths,
                        double connectivity, double redundancy, double rho,
                        const DerivedValue& loss, const DerivedValue& spread = {},
                        const DerivedValue& shortness = {});

// edges (batch, points-1, 2) in death order -> merges (batch, points-1, 3): the ids of the two
// merged clusters (smaller first) and the size of the result, as in SciPy's linkage matrix. O(N log
// N).
void single_linkage(int64_t batch, int64_t points, const int64_t* edges, int64_t* merges);

// Squared Euclidean (or, for kManhattan, plain) distances as the tree sees them: distances
// (batch, points, points). For tests and inspection.
void pairwise_keys(Dtype dtype, Metric metric, const BatchShape& shape, const void* points,
                   void* distances, int threads);

// For tests: kept (points, points) says for each pair of one cloud whether the low-precision filter
// keeps it if the bound is its own squared distance times `factor`.
void filter_keeps(Dtype dtype, const BatchShape& shape, const void* points, double factor,
                  uint8_t* kept);

// The instruction set in use: "baseline", "avx2", "avx512" or
// "avx512_vnni". Chosen once from the processor or
// from the environment variable TSLOSS_ISA. Throws std::invalid_argument for an unknown or
// unsupported one.
const char* isa();
void set_isa(const char* name);
std::vector<const char*> supported_isas();

}  // namespace tsloss
