// Every threshold of the CPU core, in one place. `python -m tsloss_fast.benchmarks.thresholds`
// measures the paths against each other around the dimensions and numbers of points, and the
// sample; the others (kHitsForWave, kWaveOneIn, kFirstWaveOneIn, kBlurred*, kDenseHits,
// kParallelWork) were tried by hand. Where its table would move one, other clouds hold it, those of
// `python -m tsloss_fast.benchmarks.worst`: codes win from 16 dimensions on for Gaussian clouds,
// but take twice as long as distances for tight clusters in low ones.
#pragma once

#include <cstdint>

namespace tsloss {

// Paths through the forward pass; kAuto chooses by the thresholds below.
enum class Path : int { kAuto = 0, kSmall = 1, kPacked = 2, kLarge = 3, kSpatial = 4 };

// Tiles vectorised over the dimension beat packed panels from this dimension on, and in clouds of
// no more points than dimensions.
constexpr int64_t kTileDimension = 128;
// Below this dimension distances are cheap beside the rest of the large path.
constexpr int64_t kSmallDimension = 96;
// Up to this many points, rows that do not begin at a cache line are read where they are: the loads
// that cross a line cost less than a copy.
constexpr int64_t kUnalignedPoints = 64;
// From this many points on, "sample, order, filter, repair" beats the dense matrix of keys, or
// loses little on the worst clouds: below kCodedDimension, below kSmallDimension, and above.
constexpr int64_t kLargePointsLow = 2048;
constexpr int64_t kLargePoints = 1536;
constexpr int64_t kLargePointsHigh = 1024;
// The k-d tree beats the dense matrix of keys from this many points on, in one, two, three and four
// dimensions.
constexpr int64_t kSpatialPoints1 = 512;
constexpr int64_t kSpatialPoints2 = 704;
constexpr int64_t kSpatialPoints3 = 896;
constexpr int64_t kSpatialPoints4 = 1024;
// From this dimension on, low-precision codes are a cheaper filter than the distances. If they turn
// out not to filter, distances take over again below kSmallDimension.
constexpr int64_t kCodedDimension = 48;
// Above this dimension the sum of products of 8-bit codes could leave 32 bits.
constexpr int64_t kByteDimension = 65536;

// One in so many tiles is looked at for the first forest, by approximate distances.
constexpr int64_t kSampleOneIn = 8;
// If the first forest would let more pairs a point through the filter than this, one in so many
// tiles is looked at with exact keys for a better one.
constexpr double kHitsForWave = 48;
constexpr int64_t kWaveOneIn = 8;
constexpr int64_t kFirstWaveOneIn = 64;
// If codes cannot tell this part of a few pairs from the nearest of them, the dense path is faster:
// up to kFewPoints, and above.
constexpr double kBlurredFew = 0.15;
constexpr double kBlurredMany = 0.9;
constexpr int64_t kFewPoints = 2560;
// A half tile (8 x 48 pairs) with more hits than this is evaluated whole.
constexpr int kDenseHits = 64;
// After this many such half tiles in a row, only one in as many is filtered before.
constexpr int64_t kLongStreak = 16;

// Below this many multiply-adds a second thread costs more than it brings.
constexpr double kParallelWork = 1 << 19;
// Scratch memory up to this size is kept between calls.
constexpr int64_t kKeptBytes = int64_t{32} << 20;

// What tests and the threshold script may override; the defaults are the constants above. Not for
// use while other threads compute.
struct Overrides {
  Path path = Path::kAuto;
  int64_t sample_one_in = 0;  // 0: the constant
  int64_t wave_one_in = 0;    // 0: if it is needed, -1: never
  int coded = -1;             // -1: by the dimension, 0: never, 1: always (but for manhattan)
  uint64_t seed = 0;
  int64_t poll_milliseconds = 100;  // how seldom a long call says how far it is
};
Overrides& overrides();

}  // namespace tsloss
