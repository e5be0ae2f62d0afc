// The tree of one cloud whose points are shared out over processes: what one process does with the
// blocks of points that it holds or is visited by. See ../README.md.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/tree/tree.h"

namespace tsloss {

// How the keys of a cloud are computed, the same in every process.
struct ShardCloud {
  int64_t dim = 0;
  Term term = Term::kSquared;
  double largest = 0;    // |coordinate|, of all points
  bool lattice = false;  // see is_lattice_row; all points
  bool robust = false;   // squares leave the range of the type: lengths in place of keys, no filter
  int threads = 1;
};

// Pairs of blocks of points -> the edges that could be in the tree. Blocks stand in numbered slots.
class ShardFilter {
 public:
  virtual ~ShardFilter() = default;

  // Any spanning tree of all `n` points, as keys (n-1) and edges (n-1, 2) in ascending order (key,
  // smaller index, larger index). Every process has the same one. Slots are empty afterwards.
  virtual void set_forest(int64_t n, const double* keys, const int64_t* edges) = 0;

  // rows (count, dim rounded up to kLanes), 64-byte aligned, padded with zeros, different from each
  // other, and the numbers of the points in the cloud. Both stay where they are while the slot is
  // in use. O(count dim).
  virtual void load(int64_t slot, const void* rows, const int64_t* ids, int64_t count) = 0;

  // A few short edges for each point of both slots, from approximate distances: enough to connect
  // each point of one with a point of the other. No forest is needed.
  virtual void near(int64_t a, int64_t b) = 0;

  // The edges between the points of two slots (or within one, if a == b) that could replace an edge
  // of the forest; no more than a minimum spanning forest of them. Exact keys.
  virtual void between(int64_t a, int64_t b) = 0;

  // What the last of these two found, ascending.
  const std::vector<Edge<double>>& result() const { return result_; }

  // Whether different points were met whose squared distance is 0: then robust is called for.
  bool lost_digits() const { return lost_digits_; }

 protected:
  std::vector<Edge<double>> result_;
  bool lost_digits_ = false;
};

// Dtype: that of the rows, which is float64 under cosine.
std::unique_ptr<ShardFilter> make_shard_filter(Dtype dtype, const ShardCloud& cloud);

// What is known of the points of one process.
struct Shard {
  Finding finding;
  double largest = 0;
  bool lattice = false;
  std::vector<int64_t> ids;  // the first of each point, ascending
  // Copies and the first of them, as edges of length 0.
  std::vector<Edge<double>> joined;
};

// points (n, dim) -> rows (n, dim rounded up to kLanes) as ShardFilter wants them, of unit length
// under cosine; those of `ids` come first.
Shard load_shard(Dtype dtype, Metric metric, const void* points, int64_t n, int64_t dim, void* rows,
                 int threads);

// Kruskal, in place: keys (count) and edges (count, 2) in any order -> the first of them are the
// minimum spanning forest of n points, ascending. Returns their number.
int64_t spanning_forest(int64_t n, int64_t count, double* keys, int64_t* edges);

// keys[k] = the key of rows a[k] and b[k], of `stride` numbers, as ShardFilter has it.
void exact_keys(Dtype dtype, Metric metric, bool robust, const void* rows, int64_t stride,
                int64_t count, const int64_t* a, const int64_t* b, double* keys);

// edges (n-1, 2) of a tree, ascending -> the order (n) of the points, and by position the rank (n)
// of the edge by which the one before is met, 0 for the first; see forest.h.
void merge_order(int64_t n, const int64_t* edges, int32_t* order, int32_t* rank);

// Whether keys can be trusted; see CloudSolver::in_range. Dtype: that of the rows.
bool keys_in_range(Dtype dtype, Metric metric, int64_t dim, int64_t count, const double* keys);

// keys (count) and edges (count, 2) of the tree -> deaths and edges in the order of h0_forward.
// The finding is that of an overflow.
Finding finish_tree(Dtype dtype, Metric metric, bool robust, int64_t count, const double* keys,
                    const int64_t* edges, void* deaths, int64_t* sorted_edges);

}  // namespace tsloss
