// A cloud in several shards, as tsloss_fast/distributed/tree.py works on it, within one process.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "cpu/kernels/kernels.h"
#include "cpu/shards/shards.h"
#include "fuzz_input.h"

namespace fuzz {

// Edges and their keys as the functions of shards.h take them.
struct Edges {
  std::vector<double> keys;
  std::vector<int64_t> ends;

  void add(double key, int64_t i, int64_t j) {
    keys.push_back(key);
    ends.insert(ends.end(), {i, j});
  }
  void add(const std::vector<tsloss::Edge<double>>& edges) {
    for (const auto& e : edges) add(e.length, e.i, e.j);
  }
  int64_t size() const { return static_cast<int64_t>(keys.size()); }

  // In arrays of the exact size.
  void reduce(int64_t n) {
    Array<double> k(size());
    Array<int64_t> e(2 * size());
    std::copy(keys.begin(), keys.end(), k.data());
    std::copy(ends.begin(), ends.end(), e.data());
    const int64_t kept = tsloss::spanning_forest(n, size(), k.data(), e.data());
    keys.assign(k.data(), k.data() + kept);
    ends.assign(e.data(), e.data() + 2 * kept);
  }
};

// T: the type of the points, W: that of the rows, double under cosine.
template <class T, class W>
class Sharded {
 public:
  using Metric = tsloss::Metric;

  Sharded(Metric metric, const T* points, int64_t n, int64_t dim, int threads)
      : metric_(metric),
        points_(points),
        n_(n),
        dim_(dim),
        stride_(tsloss::round_up(std::max<int64_t>(dim, 1), tsloss::kLanes)),
        threads_(threads) {}

  // Shard s has the points from starts[s] to starts[s + 1]. Returns the first bad point.
  tsloss::Finding load(const std::vector<int64_t>& starts) {
    for (size_t s = 0; s + 1 < starts.size(); ++s) {
      const int64_t begin = starts[s], end = starts[s + 1];
      Array<W> rows((end - begin) * stride_);
      tsloss::Shard shard = tsloss::load_shard(dtype_of<T>(), metric_, points_ + begin * dim_,
                                               end - begin, dim_, rows.data(), threads_);
      if (shard.finding.problem != tsloss::Problem::kNone) {
        shard.finding.i += begin;
        return shard.finding;
      }
      for (const auto& e : shard.joined) joined_.add(0, e.i + begin, e.j + begin);
      largest_ = std::max(largest_, shard.largest);
      lattice_ = lattice_ && shard.lattice;
      const int64_t count = static_cast<int64_t>(shard.ids.size());
      Part part{Array<W>(count * stride_), Array<int64_t>(count)};
      std::copy_n(rows.data(), count * stride_, part.rows.data());
      for (int64_t p = 0; p < count; ++p) part.ids[p] = shard.ids[p] + begin;
      parts_.push_back(std::move(part));
    }
    return {};
  }

  // The tree, and whether it has lengths in place of keys, since squares left the range of W.
  Edges tree(bool* robust) const {
    bool lost = false;
    Edges tree = search(false, &lost);
    *robust = lost && (metric_ == Metric::kEuclidean || metric_ == Metric::kSqeuclidean);
    return *robust ? search(true, &lost) : tree;
  }

 private:
  struct Part {
    Array<W> rows;
    Array<int64_t> ids;
  };

  Edges search(bool robust, bool* lost) const {
    const auto filter = tsloss::make_shard_filter(
        dtype_of<W>(), {dim_, tsloss::term_of(metric_), largest_, lattice_, robust, threads_});
    const int64_t slots = static_cast<int64_t>(parts_.size());
    const auto load_all = [&] {
      for (int64_t s = 0; s < slots; ++s) {
        filter->load(s, parts_[s].rows.data(), parts_[s].ids.data(), parts_[s].ids.size());
      }
    };
    load_all();
    // Each point beside those of one sample, here the largest shard, which is joined up by a path.
    int64_t sample = 0;
    for (int64_t s = 0; s < slots; ++s) {
      if (parts_[s].ids.size() > parts_[sample].ids.size()) sample = s;
    }
    Edges found = joined_;
    for (int64_t s = 0; s < slots; ++s) {
      filter->near(s, sample);
      found.add(filter->result());
    }
    add_path(parts_[sample], robust, found);
    found.reduce(n_);
    filter->set_forest(n_, found.keys.data(), found.ends.data());
    load_all();
    for (int64_t a = 0; a < slots; ++a) {
      for (int64_t b = a; b < slots; ++b) {
        filter->between(a, b);
        found.add(filter->result());
      }
    }
    found.reduce(n_);
    *lost = filter->lost_digits() ||
            !tsloss::keys_in_range(dtype_of<W>(), metric_, dim_, found.size(), found.keys.data());
    return found;
  }

  void add_path(const Part& part, bool robust, Edges& found) const {
    const int64_t count = std::max<int64_t>(part.ids.size() - 1, 0);
    Array<int64_t> a(count), b(count);
    Array<double> keys(count);
    std::iota(a.data(), a.data() + count, 0);
    std::iota(b.data(), b.data() + count, 1);
    tsloss::exact_keys(dtype_of<W>(), metric_, robust, part.rows.data(), stride_, count, a.data(),
                       b.data(), keys.data());
    for (int64_t k = 0; k < count; ++k) found.add(keys[k], part.ids[k], part.ids[k + 1]);
  }

  const Metric metric_;
  const T* points_;
  const int64_t n_, dim_, stride_;
  const int threads_;
  double largest_ = 0;
  bool lattice_ = true;
  Edges joined_;
  std::vector<Part> parts_;
};

// All of it: deaths (n-1) and edges (n-1, 2) of a cloud of n > 0 points. `tree`: the edges by key.
template <class T, class W>
tsloss::Finding sharded_h0(tsloss::Metric metric, const T* points, int64_t n, int64_t dim,
                           const std::vector<int64_t>& starts, int threads, T* deaths,
                           int64_t* edges, Edges* tree) {
  Sharded<T, W> cloud(metric, points, n, dim, threads);
  const tsloss::Finding finding = cloud.load(starts);
  if (finding.problem != tsloss::Problem::kNone) return finding;
  bool robust = false;
  *tree = cloud.tree(&robust);
  require(tree->size() == n - 1, "shards: a spanning tree");
  return tsloss::finish_tree(dtype_of<T>(), metric, robust, n - 1, tree->keys.data(),
                             tree->ends.data(), deaths, edges);
}

}  // namespace fuzz
