// The kernels that exist once per instruction set, behind one table per floating-point type.
//
// Rows handed to a kernel are 64-byte aligned and padded with zeros to a multiple of kLanes
// numbers, so no kernel has a tail loop over the dimension.
#pragma once

#include <cstdint>

namespace tsloss {

constexpr int64_t kLanes = 16;

// Rows [begin, end) of `row_stride` numbers each, of which `dim` (a multiple of kLanes) are read.
template <class T>
struct Rows {
  const T* data;
  int64_t stride;
  int64_t dim;
  const T* operator[](int64_t i) const { return data + i * stride; }
};

enum class Term { kSquared, kAbsolute };

template <class T>
struct Kernels {
  // keys[i * key_stride + j] and its mirror image, for i in [i_begin, i_end), j in [j_begin, j_end)
  // with j > i, and keys[i][i] = 0. Block edges are multiples of 4. key = sum over the dimension of
  // (x - y)^2 or |x - y|; each pair is summed in the same order wherever it stands.
  void (*block)(const Rows<T>& rows, Term term, int64_t i_begin, int64_t i_end, int64_t j_begin,
                int64_t j_end, T* keys, int64_t key_stride);
  // keys[j] for the pairs (point, rows[j]), j in [begin, end).
  void (*row)(const Rows<T>& rows, Term term, const T* point, int64_t begin, int64_t end, T* keys);
  // One step of dense Prim: candidates from vertex u relax (best, from) by (key, u); returns the
  // least best. Vertices in the tree have dead = +inf and best = +inf.
  T (*relax)(const T* keys, const T* dead, int64_t n, int32_t u, T* best, int32_t* from);
  // sum (x - y)^2 or |x - y| in double, over n numbers (a multiple of kLanes).
  double (*refine)(const T* x, const T* y, int64_t n, Term term);
  // Whether n numbers, unaligned, hold no NaN and no infinity.
  bool (*all_finite)(const T* x, int64_t n);
  // out += w * (x - y) over n numbers, unaligned.
  void (*add_scaled_difference)(const T* x, const T* y, int64_t n, T w, T* out);
};

namespace baseline {
extern const Kernels<float> kFloat;
extern const Kernels<double> kDouble;
}  // namespace baseline
#ifdef TSLOSS_X86
namespace avx2 {
extern const Kernels<float> kFloat;
extern const Kernels<double> kDouble;
}  // namespace avx2
namespace avx512 {
extern const Kernels<float> kFloat;
extern const Kernels<double> kDouble;
}  // namespace avx512
#endif

// The table of the instruction set in use.
template <class T>
const Kernels<T>& kernels();

}  // namespace tsloss
