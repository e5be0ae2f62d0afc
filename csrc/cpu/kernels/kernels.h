// The kernels that exist once per instruction set, behind one table per floating-point type and one
// for the codes of the low-precision filter.
//
// Rows handed to a kernel are padded with zeros to a multiple of kLanes numbers, so no kernel has a
// tail loop over the dimension. They need not be aligned, but vectors of 64 bytes then take longer.
#pragma once

#include <cstdint>

namespace tsloss {

constexpr int64_t kLanes = 16;
constexpr int64_t kSiblings = 4;  // edges of one vertex that are routed at once

// Rows of `stride` numbers each, of which `dim` (a multiple of kLanes) are read.
template <class T>
struct Rows {
  const T* data;
  int64_t stride;
  int64_t dim;
  const T* operator[](int64_t i) const { return data + i * stride; }
};

// Panels hold 16 points each, coordinate by coordinate, so that one load brings the same coordinate
// of many points. A tile is half a panel of rows against three panels of columns.
constexpr int64_t kPanel = 16;
constexpr int64_t kTileRows = 8;
constexpr int64_t kTilePanels = 3;
constexpr int64_t kTileColumns = kPanel * kTilePanels;

enum class Term { kSquared, kAbsolute };

// Vertex numbers as wide as the keys, so that vectors of both have the same lanes.
template <class T>
struct IndexOf {
  using Type = int32_t;
};
template <>
struct IndexOf<double> {
  using Type = int64_t;
};
template <class T>
using Index = typename IndexOf<T>::Type;

template <class T>
struct Kernels {
  // keys[i * key_stride + j] and its mirror image, for i in [i_begin, i_end), j in [j_begin, j_end)
  // with j > i, and keys[i][i] = 0. Block edges are multiples of 4. key = sum over the dimension of
  // (x - y)^2 or |x - y|; each pair is summed in the same order wherever it stands.
  void (*block)(const Rows<T>& rows, Term term, int64_t i_begin, int64_t i_end, int64_t j_begin,
                int64_t j_end, T* keys, int64_t key_stride);
  // keys[k] of the rows a[k] and b[k]; the same bits as block.
  void (*pairs)(const T* const* a, const T* const* b, int64_t count, int64_t dim, Term term,
                T* keys);
  // keys[8][48] of 8 rows against 48; the same bits as block.
  void (*rectangle)(const T* const* rows, const T* const* columns, int64_t dim, Term term, T* keys);
  // Packs up to 16 rows into one panel [dim][16]; missing lanes repeat the last row.
  void (*pack)(const Rows<T>& rows, int64_t n, int64_t dim, T* panel);
  // keys[8][48] of half a panel `a` against `panels` (1 to 3) panels from `b` on.
  void (*panel_tile)(const T* a, const T* b, int64_t dim, Term term, int64_t panels, T* keys);
  // out[c * stride + r] = keys[r][c] for 8 rows and `columns` columns; both padded to 8.
  void (*mirror)(const T* keys, int64_t columns, T* out, int64_t stride);
  // Sets bit j of masks[r] if key j of the 48 of row r is <= max(row_bound[r], column_bound[j]).
  int (*hits)(const T* keys, const T* row_bound, const T* column_bound, int rows, uint64_t* masks);
  // One step of dense Prim, and the vertices that it may add; see prim_dense.cpp.
  // `keys` need not be aligned; `close` is kLanes counters. Without `bottleneck` nothing is
  // counted.
  T (*relax)(const T* keys, int64_t n, Index<T> u, T height, T band, T* best, Index<T>* from,
             T* bottleneck, T* close);
  int64_t (*find_least)(const T* best, int64_t n, T least, int32_t* found);
  // Returns whether 8 x 8 numbers are finite, >= 0 and the mirror image of those at `mirror`.
  bool (*mirrored)(const T* block, const T* mirror, int64_t stride);
  // Adds row u, of n numbers, to hashes of rows and columns; see matrix.inl. The result has bit 1
  // if there is an infinite number, and bit 2 if one is NaN or negative.
  int (*hash_row)(const T* row, int64_t n, int64_t u, const void* weights, uint64_t* columns,
                  uint64_t* sum);
  // sum (x - y)^2 or |x - y| in double, over n numbers (a multiple of kLanes); the same bits on
  // every instruction set. Infinite where the sum would be NaN.
  double (*refine)(const T* x, const T* y, int64_t n, Term term);
  // Copies n numbers to `row`, which is filled up with zeros to a multiple of kLanes, and returns
  // whether they hold no NaN and no infinity. Each number is read once, so the check sees what is
  // written even if other threads write to x. `row` may be x.
  bool (*copy_row)(const T* x, int64_t n, T* row);
  // Writes out[c] = weights[c] * (x[c] - y) and subtracts it from out_y, for c < count <=
  // kSiblings in order. All have n numbers at any address.
  void (*route)(const T* const* x, int64_t count, const T* y, const T* weights, int64_t n,
                T* const* out, T* out_y);
  // The relative error of a key is at most this many units of rounding (2^-24 or 2^-53), for
  // block, pairs and rectangle, and for panel_tile.
  int64_t (*rounding)(int64_t dim);
  int64_t (*panel_rounding)(int64_t dim);
};

// Near points in a low dimension, by exact keys; see spatial/.
constexpr int64_t kLeafPoints = 16;
constexpr int kNear = 5;  // of a point

// The points of a leaf, of which those of `lanes` search for near points in other leaves.
struct LeafSearch {
  const double* x;  // [dim][kLeafPoints], as those of the other leaf
  double box[8];    // the least coordinates of the searching points, then the largest ones
  int dim;          // 1 to 4
  Term term;
  uint32_t lanes;
  bool own;  // the other leaf is the same one: a point is not near to itself
};

struct LeafKernels {
  // Inserts the points of a leaf at `y` that are in `among`, and within `radius` of the searching
  // points' box, into lists of the kNear nearest ones, keys[kNear][kLeafPoints], ordered by (key,
  // tag). Returns the lanes whose lists may have changed. And the same with lists of one.
  uint32_t (*near)(const LeafSearch& search, const double* y, const int64_t* tags, uint32_t among,
                   double radius, double* keys, int64_t* found);
  uint32_t (*nearest)(const LeafSearch& search, const double* y, const int64_t* tags,
                      uint32_t among, double radius, double* keys, int64_t* found);
};

// Rows as integer codes in panels [panel][group][16][codes a group]; see codes.inl.
struct Coder {
  int64_t group;       // codes that one 32-bit lane multiplies and adds at once
  int64_t code_bytes;  // 1 or 2
  bool two_copies;     // columns hold code + 128 as unsigned bytes
  // Codes of `n` numbers with |code| <= largest, in lane `lane` of a panel. Returns the sums.
  struct Encoded {
    float scale;     // row ~ scale * codes
    double square;   // |row|^2
    double residue;  // |row - scale * codes|^2
    double coded;    // |scale * codes|^2
    int64_t sum;     // of the codes
  };
  Encoded (*encode)(const float* row, int64_t n, int largest, int64_t lane, void* panel_rows,
                    void* panel_columns);
  // dots[8][48] = start[8] + sum of products of codes; `rows` points to the first of 8 lanes of a
  // panel.
  void (*dot)(const void* rows, const void* columns, int64_t groups, const int32_t* start,
              int32_t* dots);
};

// Bounds and norms of the rows and columns of a tile, by which the filter decides; see codes.inl.
struct TileBounds {
  const float* row_scale;     // 2 * scale
  const float* row_low;       // |row|^2 less its share of the error
  const float* row_bound;     // keep if the squared distance may be below max(row_bound, ...)
  const float* column_scale;  // scale
  const float* column_low;    // |column|^2 less the slack
  const float* column_residue;
  float largest_row;          // 2 max (|coded row| + residue)
  const float* column_bound;  // max(..., column_bound)
};

// The least approximate squared distance that each lane has met, and the point that it belongs to.
struct Minima {
  float* row_value;       // [8][16]
  int32_t* row_index;     // column position
  float* column_value;    // [48]
  int32_t* column_index;  // row position
};

struct Filter {
  // Sets bit j of masks[r] if column j of row r may be within the bound. Returns the number of set
  // bits.
  int (*survivors)(const int32_t* dots, const TileBounds& bounds, int rows, uint64_t* masks);
  // Approximates the squared distances [8][48], from norms instead of the low ones.
  void (*distances)(const int32_t* dots, const TileBounds& bounds, int rows, float* distances);
  void (*minima)(const float* distances, int rows, int32_t first_row, int32_t first_column,
                 const Minima& minima);
};

// All kernels of one instruction set.
struct KernelSet {
  Kernels<float> of_float;
  Kernels<double> of_double;
  Filter filter;
  LeafKernels leaves;
  Coder coder;
};

namespace baseline {
extern const KernelSet kKernels;
}
#ifdef TSLOSS_X86
namespace avx2 {
extern const KernelSet kKernels;
}
namespace avx512 {
extern const KernelSet kKernels;
}
namespace avx512vnni {
extern const Coder kByteCoder;
}
#endif

// The kernels of the instruction set in use.
template <class T>
const Kernels<T>& kernels();
const Filter& filter();
const LeafKernels& leaf_kernels();
const Coder& coder(int64_t dim);

}  // namespace tsloss
