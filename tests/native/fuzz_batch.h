// Batches of clouds, the ways through the core, and what comes out.
#pragma once

#include <algorithm>

#include "cpu/tuning.h"
#include "fuzz_oracle.h"

namespace fuzz {

using tsloss::BatchShape;
using tsloss::Finding;

// Which of the ways to the same bits is taken.
struct Way {
  tsloss::Overrides overrides;
  int threads = 1;
  const char* isa;

  static Way first() { return {{}, 1, tsloss::supported_isas().back()}; }

  static Way read(Input& in) {
    const auto isas = tsloss::supported_isas();
    Way way;
    way.overrides.path = static_cast<tsloss::Path>(in.below(5));
    way.overrides.coded = static_cast<int>(in.below(3)) - 1;
    way.overrides.sample_one_in = in.below(2) ? 1000000 : in.below(4);
    way.overrides.wave_one_in = in.below(6) - 1;
    way.overrides.seed = in.byte();
    way.threads = 1 + static_cast<int>(in.below(4));
    way.isa = isas[static_cast<size_t>(in.below(static_cast<int64_t>(isas.size())))];
    return way;
  }

  void take() const {
    tsloss::overrides() = overrides;
    tsloss::set_isa(isa);
  }
};

// A batch and its clouds, one behind the other.
template <class T>
struct Batch {
  BatchShape shape;
  Metric metric;
  Array<int64_t> lengths, offsets, bar_offsets;
  Array<T> points;

  static Batch read(Input& in) {
    const Metric metric = static_cast<Metric>(in.below(4));
    const int64_t layout = in.below(3);
    int64_t batch = in.below(6), most = size_of(in, 300), dim = size_of(in, 200);
    const int shift = static_cast<int>(in.below(4));
    // The work of the oracle is that of all pairs.
    while (batch * most * most * std::max<int64_t>(dim, 4) > 1000000) {
      (batch > 1 ? batch : dim > 16 ? dim : most) /= 2;
    }
    Array<int64_t> lengths(layout == 1 ? batch : 0), offsets(layout == 2 ? batch + 1 : 0),
        bar_offsets(layout == 2 ? batch + 1 : 0);
    for (int64_t b = 0; b < lengths.size(); ++b) lengths[b] = in.below(most + 1);
    int64_t total = batch * most;
    if (layout == 2) {
      offsets[0] = bar_offsets[0] = 0;
      int64_t largest = 0;
      for (int64_t b = 0; b < batch; ++b) {
        const int64_t n = in.flag() ? most : in.below(most + 1);
        offsets[b + 1] = offsets[b] + n;
        bar_offsets[b + 1] = bar_offsets[b] + std::max<int64_t>(n - 1, 0);
        largest = std::max(largest, n);
      }
      most = largest;
      total = offsets[batch];
    }
    Array<T> points(total * dim, shift);
    fill(in, points.data(), total, dim);
    const BatchShape shape{batch,
                           most,
                           dim,
                           layout == 1 ? lengths.data() : nullptr,
                           layout == 2 ? offsets.data() : nullptr,
                           layout == 2 ? bar_offsets.data() : nullptr};
    return {shape,
            metric,
            std::move(lengths),
            std::move(offsets),
            std::move(bar_offsets),
            std::move(points)};
  }

  int64_t bars() const { return shape.first_bar(shape.batch); }
  const T* cloud(int64_t c) const { return points.data() + shape.first_point(c) * shape.dim; }
};

template <class T>
struct Result {
  Array<T> deaths;
  Array<int64_t> edges;
  Finding finding;

  explicit Result(int64_t bars, int shift = 0)
      : deaths(bars, shift), edges(2 * bars, shift), finding() {}
  bool operator==(const Result& other) const {
    return edges == other.edges && same_numbers(deaths, other.deaths) &&
           finding.problem == other.finding.problem && finding.cloud == other.finding.cloud &&
           finding.i == other.finding.i && finding.j == other.finding.j;
  }
};

template <class T>
void check_padding(const BatchShape& shape, int64_t c, const Result<T>& r) {
  const int64_t used = std::max<int64_t>(shape.valid(c) - 1, 0);
  for (int64_t k = shape.first_bar(c) + used; k < shape.first_bar(c) + shape.bars_of(c); ++k) {
    require(r.deaths[k] == 0 && r.edges[2 * k] == -1 && r.edges[2 * k + 1] == -1, "padding");
  }
}

template <class T>
void check_nan_path(const T* deaths, const int64_t* edges, int64_t n) {
  require(spans(n, edges), "the edges of a bad cloud are a spanning tree");
  for (int64_t k = 0; k + 1 < n; ++k) require(std::isnan(deaths[k]), "deaths of a bad cloud");
}

// Weights that a loss would have; now and then anything.
template <class T>
void fill_weights(Input& in, Array<T>& out) {
  const bool any = in.byte() % 8 == 7;
  Random random{in.word()};
  for (int64_t k = 0; k < out.size(); ++k) {
    out[k] = any ? raw<T>(random()) : static_cast<T>(random.normal());
  }
}

}  // namespace fuzz
