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

// x[0], y[0], x[1], y[1], ... of the lower halves and of the upper halves, added.
template <class T>
inline __attribute__((always_inline)) typename Simd<T>::Vec fold(typename Simd<T>::Vec x,
                                                                 typename Simd<T>::Vec y) {
  constexpr int64_t kWidth = Simd<T>::kWidth;
  if constexpr (kWidth == 16) {
    return __builtin_shufflevector(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23) +
           __builtin_shufflevector(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                   31);
  } else if constexpr (kWidth == 8) {
    return __builtin_shufflevector(x, y, 0, 8, 1, 9, 2, 10, 3, 11) +
           __builtin_shufflevector(x, y, 4, 12, 5, 13, 6, 14, 7, 15);
  } else if constexpr (kWidth == 4) {
    return __builtin_shufflevector(x, y, 0, 4, 1, 5) + __builtin_shufflevector(x, y, 2, 6, 3, 7);
  } else {
    return __builtin_shufflevector(x, y, 0, 2) + __builtin_shufflevector(x, y, 1, 3);
  }
}

template <class T, int kHalf>
inline __attribute__((always_inline)) void fold_all(typename Simd<T>::Vec* acc) {
#pragma GCC unroll 8
  for (int l = 0; l < kHalf; ++l) acc[l] = fold<T>(acc[l], acc[l + kHalf]);
  if constexpr (kHalf > 1) fold_all<T, kHalf / 2>(acc);
}

// The same as reduce, and the same bits, for a multiple of kWidth accumulators: the lanes of all of
// them are added at once, by folding pairs of accumulators into one until a vector of sums is left.
template <class T, int kCount>
inline __attribute__((always_inline)) void reduce_tile(typename Simd<T>::Vec (&acc)[kCount],
                                                       T* sums) {
  constexpr int kWidth = static_cast<int>(Simd<T>::kWidth);
  static_assert(kCount % kWidth == 0);
#pragma GCC unroll 8
  for (int group = 0; group < kCount; group += kWidth) {
    fold_all<T, kWidth / 2>(acc + group);
    typename Simd<T>::Vec* out = reinterpret_cast<typename Simd<T>::Vec*>(sums + group);
    *out += acc[group];
  }
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
    Vec acc[kNI * kNJ];
#pragma GCC unroll 16
    for (int p = 0; p < kNI * kNJ; ++p) acc[p] = Vec{};
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
    reduce_tile<T, kNI * kNJ>(acc, sums);
  }
}

constexpr int kTileHeight = kVectorBytes == 64 ? 4 : 2;
constexpr int kTileWidth = 4;

template <class T, Term kTerm>
__attribute__((noinline)) void block_of(const Rows<T>& rows, int64_t i_begin, int64_t i_end,
                                        int64_t j_begin, int64_t j_end, T* keys, int64_t stride) {
  for (int64_t i0 = i_begin; i0 < i_end; i0 += kTileHeight) {
    const T* a[kTileHeight];
    // A tile that sticks out repeats the last row and throws the result away.
    for (int i = 0; i < kTileHeight; ++i) a[i] = rows[i0 + i < i_end ? i0 + i : i_end - 1];
    const int64_t diagonal = i0 / kTileWidth * kTileWidth;
    for (int64_t j0 = j_begin > diagonal ? j_begin : diagonal; j0 < j_end; j0 += kTileWidth) {
      const T* b[kTileWidth];
      for (int j = 0; j < kTileWidth; ++j) b[j] = rows[j0 + j < j_end ? j0 + j : j_end - 1];
      alignas(128) T sums[kTileHeight * kTileWidth];
      tile<T, kTerm, kTileHeight, kTileWidth>(a, b, rows.dim, sums);
      if (j0 >= i0 + kTileHeight && i0 + kTileHeight <= i_end && j0 + kTileWidth <= j_end) {
        T* out = keys + i0 * stride + j0;
        T* mirror = keys + j0 * stride + i0;
        if constexpr (kTileHeight == 4) {
          typedef T Tile __attribute__((vector_size(16 * sizeof(T)), may_alias));
          Tile* all = reinterpret_cast<Tile*>(sums);
          for (int i = 0; i < 4; ++i)
            __builtin_memcpy(out + i * stride, sums + 4 * i, 4 * sizeof(T));
          *all = __builtin_shufflevector(*all, *all, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7,
                                         11, 15);
          for (int j = 0; j < 4; ++j) {
            __builtin_memcpy(mirror + j * stride, sums + 4 * j, 4 * sizeof(T));
          }
        } else {
          for (int i = 0; i < kTileHeight; ++i) {
            for (int j = 0; j < kTileWidth; ++j) {
              out[i * stride + j] = sums[i * kTileWidth + j];
              mirror[j * stride + i] = sums[i * kTileWidth + j];
            }
          }
        }
        continue;
      }
      for (int i = 0; i < kTileHeight && i0 + i < i_end; ++i) {
        for (int j = 0; j < kTileWidth && j0 + j < j_end; ++j) {
          if (j0 + j < i0 + i) continue;  // the pair belongs to its mirror image
          const T key = sums[i * kTileWidth + j];
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

// Pairs that have nothing to do with each other, four at a time: enough accumulators to hide the
// latency, and rows are asked of the memory long before they are needed by the caller.
template <class T, Term kTerm>
__attribute__((noinline)) void pairs_of(const Rows<T>& rows, const Pair* pairs, int64_t count,
                                        T* keys) {
  using Vec = typename Simd<T>::Vec;
  constexpr int64_t kWidth = Simd<T>::kWidth;
  constexpr int kAtOnce = 4;
  for (int64_t p = 0; p < count; p += kAtOnce) {
    const T* a[kAtOnce];
    const T* b[kAtOnce];
    for (int q = 0; q < kAtOnce; ++q) {
      const Pair& pair = pairs[p + q < count ? p + q : count - 1];
      a[q] = rows[pair.i];
      b[q] = rows[pair.j];
    }
    T sums[kAtOnce] = {};
    for (int64_t begin = 0; begin < rows.dim; begin += kChunk) {
      const int64_t end = begin + kChunk < rows.dim ? begin + kChunk : rows.dim;
      Vec acc[kAtOnce] = {};
      for (int64_t k = begin; k < end; k += kWidth) {
#pragma GCC unroll 4
        for (int q = 0; q < kAtOnce; ++q) {
          const Vec d =
              *reinterpret_cast<const Vec*>(a[q] + k) - *reinterpret_cast<const Vec*>(b[q] + k);
          if constexpr (kTerm == Term::kSquared) {
            acc[q] += d * d;
          } else {
            acc[q] += d < 0 ? -d : d;
          }
        }
      }
      reduce<T, kAtOnce>(acc, sums);
    }
    for (int q = 0; q < kAtOnce && p + q < count; ++q) keys[p + q] = sums[q];
  }
}

template <class T>
void pairs(const Rows<T>& rows, Term term, const Pair* list, int64_t count, T* keys) {
  if (term == Term::kSquared) {
    pairs_of<T, Term::kSquared>(rows, list, count, keys);
  } else {
    pairs_of<T, Term::kAbsolute>(rows, list, count, keys);
  }
}

template <class T, Term kTerm>
__attribute__((noinline)) void rectangle_of(const T* const* rows, const T* const* columns,
                                            int64_t dim, T* keys) {
  for (int64_t r = 0; r < kTileRows; r += kTileHeight) {
    const T* a[kTileHeight];
    for (int i = 0; i < kTileHeight; ++i) a[i] = rows[r + i];
    for (int64_t c = 0; c < kTileColumns; c += kTileWidth) {
      const T* b[kTileWidth];
      for (int j = 0; j < kTileWidth; ++j) b[j] = columns[c + j];
      alignas(64) T sums[kTileHeight * kTileWidth];
      tile<T, kTerm, kTileHeight, kTileWidth>(a, b, dim, sums);
      for (int i = 0; i < kTileHeight; ++i) {
        for (int j = 0; j < kTileWidth; ++j) {
          keys[(r + i) * kTileColumns + c + j] = sums[i * kTileWidth + j];
        }
      }
    }
  }
}

template <class T>
void rectangle(const T* const* rows, const T* const* columns, int64_t dim, Term term, T* keys) {
  if (term == Term::kSquared) {
    rectangle_of<T, Term::kSquared>(rows, columns, dim, keys);
  } else {
    rectangle_of<T, Term::kAbsolute>(rows, columns, dim, keys);
  }
}

template <class T>
int64_t rounding(int64_t dim) {
  const int64_t chunk = dim < kChunk ? dim : kChunk;
  return chunk / Simd<T>::kWidth + dim / kChunk + 8;
}

}  // namespace
}  // namespace TSLOSS_NAMESPACE
}  // namespace tsloss
