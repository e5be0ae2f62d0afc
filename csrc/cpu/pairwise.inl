// Distance kernels, written with the compiler's vector types and compiled once per instruction set:
// the including file defines TSLOSS_NAMESPACE and the width kVectorBytes.
//
// Direct difference, never the Gram form: all terms are >= 0, so the relative error of a sum is
// bounded (kChunk / lanes + a few) * epsilon whatever the offset of the cloud, and coincident
// points give exactly 0. Nothing here may come from the standard library: a template compiled for
// AVX-512 could be the copy that the linker keeps for everybody.

namespace tsloss {
namespace TSLOSS_NAMESPACE {
namespace {

template <class T>
struct Simd {
  typedef T Vec __attribute__((vector_size(kVectorBytes), may_alias));
  static constexpr int64_t kWidth = kVectorBytes / sizeof(T);
};

// Long sums are cut into chunks: it bounds the rounding error and keeps the rows of a tile in L1.
constexpr int64_t kChunk = 2048;

// Adds the lanes of each of kCount accumulators, halving, in an order that depends on the width
// alone.
template <class T, int kCount>
inline __attribute__((always_inline)) void reduce(const typename Simd<T>::Vec (&acc)[kCount],
                                                  T* sums) {
  constexpr int64_t kWidth = Simd<T>::kWidth;
  alignas(64) T lanes[kCount][kWidth];
  for (int p = 0; p < kCount; ++p) *reinterpret_cast<typename Simd<T>::Vec*>(lanes[p]) = acc[p];
#pragma GCC unroll 8
  for (int64_t half = kWidth / 2; half > 0; half /= 2) {
    for (int p = 0; p < kCount; ++p) {
      for (int64_t l = 0; l < half; ++l) lanes[p][l] += lanes[p][l + half];
    }
  }
  for (int p = 0; p < kCount; ++p) sums[p] += lanes[p][0];
}

// sums[i * kNJ + j] = distance key of (a[i], b[j]). A tile of 4x4 (AVX-512, 32 registers) or 2x4
// (16 registers) pairs: each loaded row serves 4 or 2 pairs, and there are enough independent
// accumulators to hide the latency of the multiply-add.
template <class T, Term kTerm, int kNI, int kNJ>
inline __attribute__((always_inline)) void tile(const T* const (&a)[kNI], const T* const (&b)[kNJ],
                                                int64_t dim, T (&sums)[kNI * kNJ]) {
  using Vec = typename Simd<T>::Vec;
  constexpr int64_t kWidth = Simd<T>::kWidth;
  for (int p = 0; p < kNI * kNJ; ++p) sums[p] = 0;
  for (int64_t begin = 0; begin < dim; begin += kChunk) {
    const int64_t end = begin + kChunk < dim ? begin + kChunk : dim;
    Vec acc[kNI * kNJ] = {};
    for (int64_t k = begin; k < end; k += kWidth) {
      Vec y[kNJ];
#pragma GCC unroll 4
      for (int j = 0; j < kNJ; ++j) y[j] = *reinterpret_cast<const Vec*>(b[j] + k);
#pragma GCC unroll 4
      for (int i = 0; i < kNI; ++i) {
        const Vec x = *reinterpret_cast<const Vec*>(a[i] + k);
#pragma GCC unroll 4
        for (int j = 0; j < kNJ; ++j) {
          const Vec d = x - y[j];
          if constexpr (kTerm == Term::kSquared) {
            acc[i * kNJ + j] += d * d;
          } else {
            acc[i * kNJ + j] += d < 0 ? -d : d;
          }
        }
      }
    }
    reduce<T, kNI * kNJ>(acc, sums);
  }
}

constexpr int kTileRows = kVectorBytes == 64 ? 4 : 2;
constexpr int kTileColumns = 4;

template <class T, Term kTerm>
__attribute__((noinline)) void block_of(const Rows<T>& rows, int64_t i_begin, int64_t i_end,
                                        int64_t j_begin, int64_t j_end, T* keys, int64_t stride) {
  for (int64_t i0 = i_begin; i0 < i_end; i0 += kTileRows) {
    const T* a[kTileRows];
    // A tile that sticks out repeats the last row and throws the result away.
    for (int i = 0; i < kTileRows; ++i) a[i] = rows[i0 + i < i_end ? i0 + i : i_end - 1];
    const int64_t diagonal = i0 / kTileColumns * kTileColumns;
    for (int64_t j0 = j_begin > diagonal ? j_begin : diagonal; j0 < j_end; j0 += kTileColumns) {
      const T* b[kTileColumns];
      for (int j = 0; j < kTileColumns; ++j) b[j] = rows[j0 + j < j_end ? j0 + j : j_end - 1];
      T sums[kTileRows * kTileColumns];
      tile<T, kTerm, kTileRows, kTileColumns>(a, b, rows.dim, sums);
      for (int i = 0; i < kTileRows && i0 + i < i_end; ++i) {
        for (int j = 0; j < kTileColumns && j0 + j < j_end; ++j) {
          if (j0 + j < i0 + i) continue;  // the pair belongs to its mirror image
          const T key = sums[i * kTileColumns + j];
          keys[(i0 + i) * stride + j0 + j] = key;
          keys[(j0 + j) * stride + i0 + i] = key;
        }
      }
    }
  }
}

template <class T>
void block(const Rows<T>& rows, Term term, int64_t i_begin, int64_t i_end, int64_t j_begin,
           int64_t j_end, T* keys, int64_t stride) {
  if (term == Term::kSquared) {
    block_of<T, Term::kSquared>(rows, i_begin, i_end, j_begin, j_end, keys, stride);
  } else {
    block_of<T, Term::kAbsolute>(rows, i_begin, i_end, j_begin, j_end, keys, stride);
  }
}

template <class T, Term kTerm>
__attribute__((noinline)) void row_of(const Rows<T>& rows, const T* point, int64_t begin,
                                      int64_t end, T* keys) {
  const T* const a[1] = {point};
  for (int64_t j0 = begin; j0 < end; j0 += kTileColumns) {
    const T* b[kTileColumns];
    for (int j = 0; j < kTileColumns; ++j) b[j] = rows[j0 + j < end ? j0 + j : end - 1];
    T sums[kTileColumns];
    tile<T, kTerm, 1, kTileColumns>(a, b, rows.dim, sums);
    for (int j = 0; j < kTileColumns && j0 + j < end; ++j) keys[j0 + j] = sums[j];
  }
}

template <class T>
void row(const Rows<T>& rows, Term term, const T* point, int64_t begin, int64_t end, T* keys) {
  if (term == Term::kSquared) {
    row_of<T, Term::kSquared>(rows, point, begin, end, keys);
  } else {
    row_of<T, Term::kAbsolute>(rows, point, begin, end, keys);
  }
}

}  // namespace
}  // namespace TSLOSS_NAMESPACE
}  // namespace tsloss
