// One process's part in the tree of a cloud whose points are divided among processes: it filters
// the pairs of the blocks of points that it holds or receives. See ../README.md.
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
  double largest = 0;    // the largest |coordinate| of all points
  bool lattice = false;  // is_lattice_row() holds for all points
  bool robust = false;  // squares leave the range of the type; lengths replace keys, and no pair is
                        // ruled out by a filter
  int threads = 1;
};

// Finds the edges between the points of two blocks that could be in the tree. Blocks are kept in
// numbered slots.
class ShardFilter {
 public:
  virtual ~ShardFilter() = default;

  // Sets the forest that bounds pairs and orders the points: any spanning tree of all `n` points,
  // as keys (n-1) and edges (n-1, 2), ascending by (key, smaller index, larger index). Empties all
  // slots.
  virtual void set_forest(int64_t n, const double* keys, const int64_t* edges) = 0;

  // Puts a block of points into a slot: rows (count, dim rounded up to kLanes), 64-byte aligned,
  // padded with zeros and different from each other, and the numbers of the points in the cloud.
  // The caller keeps both in place while the slot is in use. O(count dim).
  virtual void load(int64_t slot, const void* rows, const int64_t* ids, int64_t count) = 0;

  // Finds a few short edges for each point of both slots, by approximate distances. They connect
  // each point of one slot with a point of the other. No forest is needed.
  virtual void near(int64_t a, int64_t b) = 0;

  // Finds the edges between the points of two slots (or within one, if a == b) that could replace
  // an edge of the forest, and keeps a minimum spanning forest of them. Keys are exact.
  virtual void between(int64_t a, int64_t b) = 0;

  // The edges that the last call of near() or between() found, ascending.
  const std::vector<Edge<double>>& result() const { return result_; }

  // Whether the squared distance of two different points was 0. The cloud must then be `robust`.
  bool lost_digits() const { return lost_digits_; }

 protected:
  std::vector<Edge<double>> result_;
  bool lost_digits_ = false;
};

// `dtype` is that of the rows, which is float64 under cosine.
std::unique_ptr<ShardFilter> make_shard_filter(Dtype dtype, const ShardCloud& cloud);

// The points of one process, as load_shard() finds them.
struct Shard {
  Finding finding;
  double largest = 0;
  bool lattice = false;
  std::vector<int64_t> ids;          // the first copy of each point, ascending
  std::vector<Edge<double>> joined;  // edges of length 0 from the first copy to the others
};

// Copies points (n, dim) to rows (n, dim rounded up to kLanes) as ShardFilter::load takes them, of
// unit length under cosine. The rows of `ids` come first.
Shard load_shard(Dtype dtype, Metric metric, const void* points, int64_t n, int64_t dim, void* rows,
                 int threads);

// Moves the edges of the minimum spanning forest of n points to the front of keys (count) and edges
// (count, 2), which come in any order. Returns their number; they are ascending.
int64_t spanning_forest(int64_t n, int64_t count, double* keys, int64_t* edges);

// Sets keys[k] to the key of rows a[k] and b[k], of `stride` numbers each, as ShardFilter does.
void exact_keys(Dtype dtype, Metric metric, bool robust, const void* rows, int64_t stride,
                int64_t count, const int64_t* a, const int64_t* b, double* keys);

// Computes from the edges (n-1, 2) of a tree, ascending, the order (n) of the points, and for each
// position the rank (n) of the edge that joined it to the one before, 0 for the first; see
// forest.h.
void merge_order(int64_t n, const int64_t* edges, int32_t* order, int32_t* rank);

// Whether keys can be trusted; see CloudSolver::in_range. `dtype` is that of the rows.
bool keys_in_range(Dtype dtype, Metric metric, int64_t dim, int64_t count, const double* keys);

// Converts keys (count) and edges (count, 2) of the tree to deaths and edges in the order of
// h0_forward. The finding reports an overflow.
Finding finish_tree(Dtype dtype, Metric metric, bool robust, int64_t count, const double* keys,
                    const int64_t* edges, void* deaths, int64_t* sorted_edges);

}  // namespace tsloss
