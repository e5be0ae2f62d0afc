// Points -> deaths and critical edges, for a batch of clouds.
//
// Each cloud: minimum spanning tree by the path that suits its size, with keys in double on the
// tree -> lengths -> sort. A batch is split over the threads by cloud; a single cloud by tiles.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/dense/dense.h"
#include "cpu/large/large.h"
#include "cpu/output.h"
#include "cpu/rows.h"
#include "cpu/runtime/monitor.h"
#include "cpu/runtime/schedule.h"
#include "cpu/runtime/thread_pool.h"
#include "cpu/spatial/spatial.h"
#include "cpu/tree/tree.h"
#include "cpu/tuning.h"
#include "tsloss.h"

namespace tsloss {

Overrides& overrides() {
  static Overrides values;
  return values;
}

namespace {

constexpr int64_t kLoadNumbers = 1 << 16;  // of a task that copies points
// The share of the progress that belongs to the copy of the points.
constexpr double kLoadShare = 0.02;

Path dense_path_of(int64_t n, int64_t dim) {
  return dim >= std::min(n, kTileDimension) ? Path::kSmall : Path::kPacked;
}

// The least number of points for which the k-d tree is the fastest path. It takes no cosine, where
// a square that is lost counts as 0 between different points, and no high dimension.
int64_t spatial_points(Metric metric, int64_t dim) {
  if (metric == Metric::kCosine || dim > kSpatialDimension) {
    return std::numeric_limits<int64_t>::max();
  }
  constexpr int64_t kPoints[] = {kSpatialPoints1, kSpatialPoints1, kSpatialPoints2, kSpatialPoints3,
                                 kSpatialPoints4};
  return overrides().path == Path::kSpatial ? 0 : kPoints[dim];
}

Path path_of(Metric metric, int64_t n, int64_t dim) {
  const Path wish = overrides().path;
  if (wish != Path::kAuto && wish != Path::kSpatial) return wish;
  if (n >= spatial_points(metric, dim)) return Path::kSpatial;
  const int64_t large = dim < kCodedDimension   ? kLargePointsLow
                        : dim < kSmallDimension ? kLargePoints
                                                : kLargePointsHigh;
  if (n >= large) return Path::kLarge;
  return dense_path_of(n, dim);
}

// Memory of one thread for one cloud at a time. It is kept between calls, because fresh pages cost
// more than the arithmetic of a small cloud, unless it is large.
template <class T>
struct Scratch {
  Buffer<T> rows;
  DenseScratch<T> dense;
  LargeScratch<T> large;
  std::vector<Edge<double>> tree;

  int64_t bytes() const {
    return rows.bytes() + dense.keys.bytes() + dense.panels.bytes() + large.bytes();
  }

  static std::unique_ptr<Scratch>& of_thread() {
    static thread_local std::unique_ptr<Scratch> scratch;
    return scratch;
  }
};

// Lends the scratch of this thread for the time of a scope, after which it is kept for the next
// call, or freed if it has grown large. The destructor allocates nothing: it runs when memory has
// run out, too.
template <class T>
class Borrowed {
 public:
  Borrowed() : scratch_(std::move(Scratch<T>::of_thread())) {
    if (!scratch_) scratch_ = std::make_unique<Scratch<T>>();
  }
  ~Borrowed() {
    if (scratch_->bytes() <= kKeptBytes) {
      Scratch<T>::of_thread() = std::move(scratch_);
    }
  }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  Scratch<T>& operator*() { return *scratch_; }

 private:
  std::unique_ptr<Scratch<T>> scratch_;
};

// One cloud. T: the type of the points. W: the type that is computed in; double for cosine, whose
// unit vectors would lose half the digits of a small distance in float.
template <class T, class W>
class CloudSolver {
 public:
  CloudSolver(Metric metric, const T* points, int64_t n, int64_t dim, int threads,
              Scratch<W>& scratch)
      : metric_(metric),
        term_(term_of(metric)),
        points_(points),
        n_(n),
        dim_(dim),
        stride_(round_up(std::max<int64_t>(dim, 1), kLanes)),
        threads_(threads),
        scratch_(scratch) {}

  // Writes the tree to scratch.tree, unless something is wrong.
  Finding solve() {
    if (n_ < 2) return n_ == 1 ? load_all() : Finding{};
    Path path = path_of(metric_, n_, dim_);
    if (path == Path::kSpatial) {
      SpatialResult result = spatial_tree(points_, n_, dim_, term_, threads_);
      keys_in_range_ = result.in_range;
      scratch_.tree = std::move(result.tree);
      return result.finding;
    }
    bool good;
    if (path == Path::kLarge) {
      if (filters_by_codes(term_, dim_)) {
        const Finding found = in_place(path) ? Finding{} : load_all();
        if (found.problem != Problem::kNone) return found;
      }
      Monitor::Part part(kLoadShare, 1);
      LargeResult result = large_tree(large_cloud(), threads_, scratch_.large);
      if (result.finding.problem != Problem::kNone) return result.finding;
      good = result.in_range;
      scratch_.tree = std::move(result.tree);
      if (!result.filters) path = dense_path_of(n_, dim_);
    }
    if (path != Path::kLarge) {
      const Finding found = in_place(path) || loaded_ ? Finding{} : load_all();
      if (found.problem != Problem::kNone) return found;
      Monitor::Part part(kLoadShare, 1);
      good = dense_tree(rows(), n_, dim_, term_, path == Path::kPacked, threads_, scratch_.dense,
                        scratch_.tree);
    }
    keys_in_range_ = good && (!squares_ || in_range());
    if (keys_in_range_) return {};
    // Rare: something is not finite, or squares leave the range.
    const Finding found = load_all();
    if (found.problem != Problem::kNone) return found;
    scratch_.tree.resize(static_cast<size_t>(n_ - 1));
    // An angle whose square is lost is 0 on every path.
    keys_in_range_ = metric_ == Metric::kCosine;
    prim_robust(rows(), n_, term_, keys_in_range_, threads_, scratch_.tree.data());
    return {};
  }

  // The length of a tree edge under the metric.
  double length(const Edge<double>& e) const {
    return length_of(metric_, e.length, keys_in_range_);
  }

 private:
  // Whether the points can be read where they are: rows without padding. The large path packs its
  // rows from aligned ones, and would read unaligned ones more often than a copy does.
  bool in_place(Path path) const {
    const uintptr_t address = reinterpret_cast<uintptr_t>(points_);
    const bool reads_any = path != Path::kLarge && n_ <= kUnalignedPoints;
    return std::is_same_v<T, W> && metric_ != Metric::kCosine && dim_ == stride_ &&
           address % (reads_any ? alignof(T) : kAlignment) == 0;
  }

  Rows<W> rows() const {
    if constexpr (std::is_same_v<T, W>) {
      if (!loaded_) return {points_, stride_, stride_};
    }
    return {scratch_.rows.data(), stride_, stride_};
  }

  Finding load_all() {
    Monitor::Part part(0, kLoadShare);
    W* rows = scratch_.rows.reserve(n_, stride_);
    loaded_ = true;
    const int64_t grain = std::max<int64_t>(kLoadNumbers / stride_, 1);
    FindingLog log;
    parallel_for((n_ + grain - 1) / grain, threads_, [&](int64_t task, int) {
      for (int64_t i = task * grain; i < std::min(n_, (task + 1) * grain); ++i) {
        const Problem problem = load_point(metric_, points_, dim_, stride_, i, rows + i * stride_);
        if (problem != Problem::kNone) log.add({problem, 0, i, -1}, i);
      }
    });
    Finding found = log.first();
    found.cloud = 0;
    return found;
  }

  LargeCloud<W> large_cloud() const {
    const Rows<W> none{nullptr, stride_, stride_};
    return {
        n_, dim_, term_, filters_by_codes(term_, dim_) ? rows() : none,
        [this](int64_t i, W* row) { return load_point(metric_, points_, dim_, stride_, i, row); }};
  }

  // Returns false if a squared key in the tree cannot be trusted. If all can, none outside the
  // tree can matter: the tree path between two points has no edge longer than their distance, so a
  // pair whose key sank below the limit has such a path, and one whose key rose to infinity is
  // longer than every tree edge.
  bool in_range() {
    const double limit = double(underflow_limit<W>(dim_));
    for (const Edge<double>& e : scratch_.tree) {
      if (e.length >= limit && e.length <= double(std::numeric_limits<W>::max())) continue;
      if (e.length != 0 || !same_point(e.i, e.j)) return false;
    }
    return true;
  }

  bool same_point(int64_t i, int64_t j) const {
    const T* x = points_ + i * dim_;
    return std::equal(x, x + dim_, points_ + j * dim_);
  }

  Metric metric_;
  Term term_;
  const T* points_;
  int64_t n_, dim_, stride_;
  int threads_;
  Scratch<W>& scratch_;
  bool squares_ = metric_ == Metric::kEuclidean || metric_ == Metric::kSqeuclidean;
  bool loaded_ = false;
  bool keys_in_range_ = true;
};

template <class T, class W>
Finding forward(Metric metric, const BatchShape& shape, const T* points, T* deaths, int64_t* edges,
                int threads) {
  if (shape.points > std::numeric_limits<int32_t>::max()) {
    throw std::invalid_argument("points: expected fewer than 2**31 in a cloud, got " +
                                std::to_string(shape.points));
  }
  if (shape.points == 0) return {};  // there may be very many clouds without points
  const double stride = double(round_up(std::max<int64_t>(shape.dim, 1), kLanes));
  const double pairs = double(shape.points) * double(shape.points) / 2;
  if (double(shape.batch) * pairs * stride < kParallelWork) threads = 1;
  FindingLog log;
  int64_t done = 0;

  const auto one = [&](int64_t cloud, int, int inner) {
    const double share = 1 / double(shape.batch);
    Monitor::Part part(inner > 1 ? double(done) * share : 0,
                       inner > 1 ? double(done + 1) * share : 1);
    if (inner > 1) ++done;
    const int64_t n = shape.valid(cloud);
    Output<T> out(deaths, edges, shape, cloud);
    out.fill_padding(n);
    Borrowed<W> borrowed;
    Scratch<W>& s = *borrowed;
    CloudSolver<T, W> solver(metric, points + shape.first_point(cloud) * shape.dim, n, shape.dim,
                             inner, s);
    const Finding found = solver.solve();
    if (found.problem != Problem::kNone) {
      log.add(found, cloud);
      out.fill_nan(n);
      return;
    }
    if (n < 2) return;
    std::vector<Edge<T>> result(s.tree.size());
    std::transform(s.tree.begin(), s.tree.end(), result.begin(), [&](const Edge<double>& e) {
      return Edge<T>{static_cast<T>(solver.length(e)), e.i, e.j};
    });
    std::sort(result.begin(), result.end());
    out.write(result);
    const Edge<T>& longest = result.back();
    if (!std::isfinite(longest.length)) {
      log.add({Problem::kOverflow, cloud, longest.i, longest.j}, cloud);
    }
  };

  const auto cost = [&](int64_t cloud) {
    const double n = double(shape.valid(cloud));
    return n * n;
  };
  const auto worth = [&](int64_t cloud) { return cost(cloud) / 2 * stride >= kParallelWork; };
  for_each_cloud(shape, threads, cost, worth, one);
  return log.first();
}

}  // namespace

Finding h0_forward(Dtype dtype, Metric metric, const BatchShape& shape, const void* points,
                   void* deaths, int64_t* edges, int threads) {
  if (dtype == Dtype::kFloat64) {
    return forward<double, double>(metric, shape, static_cast<const double*>(points),
                                   static_cast<double*>(deaths), edges, threads);
  }
  const float* x = static_cast<const float*>(points);
  float* out = static_cast<float*>(deaths);
  if (metric == Metric::kCosine) {
    return forward<float, double>(metric, shape, x, out, edges, threads);
  }
  return forward<float, float>(metric, shape, x, out, edges, threads);
}

}  // namespace tsloss
