// Packed panels: 16 points a panel, coordinate by coordinate. Included after pairwise.inl by the
// file of each instruction set; the same rules hold.
//
// A column panel is loaded as whole vectors, a row as one number broadcast to all lanes. So nothing
// is summed across lanes, which is what makes tiles over the dimension slow when it is small.

namespace tsloss {
namespace TSLOSS_NAMESPACE {
namespace {

// A sum is cut into chunks of so many coordinates, since the accumulators of a long sum would lose
// digits.
constexpr int64_t kPanelChunk = 64;

// The register tile. AVX-512: 8 rows x 3 vectors = 24 accumulators of 32 registers, 24
// multiply-adds for 11 loads. Else: 4 x 2 = 8 of 16 registers, just enough to hide the latency of
// the multiply-add (4 cycles, two at a time).
constexpr int kMicroRows = kVectorBytes == 64 ? 8 : 4;
constexpr int kMicroVectors = kVectorBytes == 64 ? 3 : 2;

template <class T, Term kTerm, int kVectors>
__attribute__((noinline)) void panel_micro(const T* a, const T* const (&b)[kVectors], int64_t dim,
                                           T* keys) {
  using Vec = typename Simd<T>::Vec;
  constexpr int64_t kWidth = Simd<T>::kWidth;
  for (int64_t begin = 0; begin < dim || begin == 0; begin += kPanelChunk) {
    const int64_t end = begin + kPanelChunk < dim ? begin + kPanelChunk : dim;
    Vec acc[kMicroRows][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kMicroRows; ++r) {
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) acc[r][v] = Vec{};
    }
    for (int64_t k = begin; k < end; ++k) {
      Vec y[kVectors];
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) {
        y[v] = *reinterpret_cast<const Vec*>(b[v] + k * kPanel);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kMicroRows; ++r) {
        const Vec x = a[k * kPanel + r] - Vec{};
#pragma GCC unroll 3
        for (int v = 0; v < kVectors; ++v) {
          accumulate<T, kTerm>(acc[r][v], x, y[v]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kMicroRows; ++r) {
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) {
        Vec* out = reinterpret_cast<Vec*>(keys + r * kTileColumns + v * kWidth);
        *out = begin == 0 ? acc[r][v] : *out + acc[r][v];
      }
    }
  }
}

template <class T, Term kTerm, int kVectors>
void panel_columns(const T* a, const T* b, int64_t dim, int64_t first, T* keys) {
  constexpr int64_t kWidth = Simd<T>::kWidth;
  const T* columns[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const int64_t column = first + v * kWidth;
    columns[v] = b + column / kPanel * kPanel * dim + column % kPanel;
  }
  for (int64_t r = 0; r < kTileRows; r += kMicroRows) {
    panel_micro<T, kTerm, kVectors>(a + r, columns, dim, keys + r * kTileColumns + first);
  }
}

template <class T, Term kTerm>
void panel_tile_of(const T* a, const T* b, int64_t dim, int64_t panels, T* keys) {
  const int64_t vectors = panels * kPanel / Simd<T>::kWidth;
  int64_t v = 0;
  for (; v + kMicroVectors <= vectors; v += kMicroVectors) {
    panel_columns<T, kTerm, kMicroVectors>(a, b, dim, v * Simd<T>::kWidth, keys);
  }
  if (vectors - v == 2) {
    panel_columns<T, kTerm, 2>(a, b, dim, v * Simd<T>::kWidth, keys);
  } else if (vectors - v == 1) {
    panel_columns<T, kTerm, 1>(a, b, dim, v * Simd<T>::kWidth, keys);
  }
}

template <class T>
void panel_tile(const T* a, const T* b, int64_t dim, Term term, int64_t panels, T* keys) {
  if (term == Term::kSquared) {
    panel_tile_of<T, Term::kSquared>(a, b, dim, panels, keys);
  } else {
    panel_tile_of<T, Term::kAbsolute>(a, b, dim, panels, keys);
  }
}

// out[c][r] = keys[r][c] for 8 rows.
template <class T>
void mirror(const T* keys, int64_t columns, T* out, int64_t stride) {
  for (int64_t c = 0; c < columns; c += 8) {
    Eight<T> x[8];
    for (int r = 0; r < 8; ++r) {
      x[r] = *reinterpret_cast<const Eight<T>*>(keys + r * kTileColumns + c);
    }
    transpose<T>(x);
    for (int l = 0; l < 8 && c + l < columns; ++l) {
      *reinterpret_cast<Eight<T>*>(out + (c + l) * stride) = x[l];
    }
  }
}

template <class T>
int64_t panel_rounding(int64_t dim) {
  const int64_t chunk = dim < kPanelChunk ? dim : kPanelChunk;
  return chunk + dim / kPanelChunk + 4;
}

// One panel of up to 16 rows; missing lanes repeat the last row.
template <class T>
void pack(const Rows<T>& rows, int64_t n, int64_t dim, T* panel) {
  const T* in[kPanel];
  for (int64_t l = 0; l < kPanel; ++l) in[l] = rows[l < n ? l : n - 1];
  int64_t k = 0;
  // 16 x 16 at a time: every cache line is read and written once.
  for (; k + kLanes <= dim; k += kLanes) {
#pragma GCC unroll 16
    for (int64_t z = 0; z < kLanes; ++z) {
#pragma GCC unroll 16
      for (int64_t l = 0; l < kPanel; ++l) panel[(k + z) * kPanel + l] = in[l][k + z];
    }
  }
  for (; k < dim; ++k) {
    for (int64_t l = 0; l < kPanel; ++l) panel[k * kPanel + l] = in[l][k];
  }
}

// Bit l of the result: whether lane l of x is <= that of y.
template <class T>
inline __attribute__((always_inline)) uint64_t at_most(typename Simd<T>::Vec x,
                                                       typename Simd<T>::Vec y) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    return _mm512_cmp_ps_mask((__m512)x, (__m512)y, _CMP_LE_OQ);
  } else {
    return _mm512_cmp_pd_mask((__m512d)x, (__m512d)y, _CMP_LE_OQ);
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    return unsigned(_mm256_movemask_ps((__m256)(x <= y)));
  } else {
    return unsigned(_mm256_movemask_pd((__m256d)(x <= y)));
  }
#elif defined(__SSE2__)
  if constexpr (sizeof(T) == 4) {
    return unsigned(_mm_movemask_ps((__m128)(x <= y)));
  } else {
    return unsigned(_mm_movemask_pd((__m128d)(x <= y)));
  }
#else
  uint64_t bits = 0;
  for (int l = 0; l < Simd<T>::kWidth; ++l) bits |= uint64_t(x[l] <= y[l]) << l;
  return bits;
#endif
}

template <class T>
int hits(const T* keys, const T* row_bound, const T* column_bound, int rows, uint64_t* masks) {
  using Vec = typename Simd<T>::Vec;
  constexpr int64_t kWidth = Simd<T>::kWidth;
  int count = 0;
  for (int r = 0; r < rows; ++r) {
    const Vec row = row_bound[r] - Vec{};
    uint64_t mask = 0;
    for (int64_t c = 0; c < kTileColumns; c += kWidth) {
      const Vec key = *reinterpret_cast<const Vec*>(keys + r * kTileColumns + c);
      const Vec column = *reinterpret_cast<const Vec*>(column_bound + c);
      mask |= at_most<T>(key, row > column ? row : column) << c;
    }
    masks[r] = mask;
    count += __builtin_popcountll(mask);
  }
  return count;
}

}  // namespace
}  // namespace TSLOSS_NAMESPACE
}  // namespace tsloss
