// The low-precision filter: squared distances within a rigorous error, at a fraction of the cost.
// Included after panels.inl by the file of each instruction set; the same rules hold.
//
// A row t (a point less a constant vector, so that offsets cost no digits) is coded as integers q
// with one scale s: t = s q + e. With |x| = |s q|, r = |e|, and (i, j) two rows,
//
//   |t_i - t_j|^2 = |t_i|^2 + |t_j|^2 - 2 s_i s_j q_i.q_j - 2 (x_i.e_j + e_i.x_j + e_i.e_j)
//                >= |t_i|^2 + |t_j|^2 - 2 s_i s_j q_i.q_j - 2 (|x_i| r_j + r_i |x_j| + r_i r_j)
//
// by Cauchy and Schwarz. Only q_i.q_j, which is exact in integers, costs anything per pair. The
// error term is made a sum of a term of i and a term of j by taking the largest |x| of the other
// side (of the tile's 48 columns, or of all rows), and both go into the "low" norms
//
//   low_i = |t_i|^2 - 2 r_i max_j |x_j| - slack_i,     low_j = |t_j|^2 - 2 r_j (max_i (|x_i| +
//   r_i)),
//
// so that low_i + low_j - 2 s_i s_j q_i.q_j <= |t_i - t_j|^2. The slack is kSlack |t|^2 a row: it
// covers the rounding of the few operations in float below (each is wrong by at most 2^-24 of
// |t_i|^2 + |t_j|^2, since 2 s_i s_j q_i.q_j <= |x_i|^2 + |x_j|^2, and |x| <= |t| + r), and that of
// t itself. See large.cpp for where the norms come from, and tests/test_filter.py, which attacks
// the bound.

namespace tsloss {
namespace TSLOSS_NAMESPACE {
namespace {

using Float = Simd<float>::Vec;
using Int = Simd<int32_t>::Vec;
constexpr int64_t kFloats = Simd<float>::kWidth;

// Adds two products of 16-bit codes in each 32-bit lane. 16 bits is the widest code whose products
// every x86 processor can sum: twice the multiply-adds of float an instruction.
typedef int16_t Short __attribute__((vector_size(kVectorBytes), may_alias));

inline __attribute__((always_inline)) Int multiply_pairs(Short x, Short y) {
#if defined(__AVX512BW__)
  return (Int)_mm512_madd_epi16((__m512i)x, (__m512i)y);
#elif defined(__AVX2__)
  return (Int)_mm256_madd_epi16((__m256i)x, (__m256i)y);
#elif defined(__SSE2__)
  return (Int)_mm_madd_epi16((__m128i)x, (__m128i)y);
#else
  Int sum;
  for (int l = 0; l < kFloats; ++l) sum[l] = x[2 * l] * y[2 * l] + x[2 * l + 1] * y[2 * l + 1];
  return sum;
#endif
}

// The register tile is that of panel_micro, for the same reasons.
__attribute__((noinline)) void dot_micro(const int16_t* a, const int16_t* const (&b)[kMicroVectors],
                                         int64_t groups, const int32_t* start, int32_t* dots) {
  Int acc[kMicroRows][kMicroVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kMicroRows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < kMicroVectors; ++v) acc[r][v] = start[r] - Int{};
  }
  for (int64_t g = 0; g < groups; ++g) {
    Short y[kMicroVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kMicroVectors; ++v) {
      y[v] = *reinterpret_cast<const Short*>(b[v] + g * 2 * kPanel);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kMicroRows; ++r) {
      int32_t two;
      __builtin_memcpy(&two, a + g * 2 * kPanel + 2 * r, 4);
      const Short x = (Short)(two - Int{});
#pragma GCC unroll 3
      for (int v = 0; v < kMicroVectors; ++v) acc[r][v] += multiply_pairs(x, y[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kMicroRows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < kMicroVectors; ++v) {
      *reinterpret_cast<Int*>(dots + r * kTileColumns + v * kFloats) = acc[r][v];
    }
  }
}

void dot(const void* rows, const void* columns, int64_t groups, const int32_t* start,
         int32_t* dots) {
  const int16_t* a = static_cast<const int16_t*>(rows);
  const int16_t* b = static_cast<const int16_t*>(columns);
  for (int64_t c = 0; c < kTileColumns; c += kFloats * kMicroVectors) {
    const int16_t* at[kMicroVectors];
    for (int v = 0; v < kMicroVectors; ++v) {
      const int64_t column = c + v * kFloats;
      at[v] = b + column / kPanel * kPanel * 2 * groups + 2 * (column % kPanel);
    }
    for (int64_t r = 0; r < kTileRows; r += kMicroRows) {
      dot_micro(a + 2 * r, at, groups, start + r, dots + r * kTileColumns + c);
    }
  }
}

template <class Store>
inline __attribute__((always_inline)) Coder::Encoded encode_row(const float* row, int64_t n,
                                                                int largest, Store store) {
  Float most = {};
  for (int64_t k = 0; k < n; k += kFloats) {
    const Float x = *reinterpret_cast<const Float*>(row + k);
    const Float size = x < 0 ? -x : x;
    most = size > most ? size : most;
  }
  float top = 0;
  for (int l = 0; l < kFloats; ++l) top = most[l] > top ? most[l] : top;
  Coder::Encoded out = {};
  // Below this the quotient leaves the range; the row is then all residue.
  const float scale = top < 1e-30f ? 0 : top / float(largest);
  const float inverse = scale > 0 ? float(largest) / top : 0;
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
  const float kRound = 12582912.0f;
  constexpr int64_t kShort = 1024;  // sums of so many squares at a time stay precise
  for (int64_t begin = 0; begin < n; begin += kShort) {
    const int64_t end = begin + kShort < n ? begin + kShort : n;
    Float square = {}, residue = {}, coded = {};
    Int sum = {};
    for (int64_t k = begin; k < end; k += kFloats) {
      const Float x = *reinterpret_cast<const Float*>(row + k);
      const Float q = (x * inverse + kRound) - kRound;
      const Int code = __builtin_convertvector(q, Int);
      const Float back = q * scale;
      const Float rest = x - back;
      square += x * x;
      residue += rest * rest;
      coded += back * back;
      sum += code;
      store(k, code);
    }
    for (int l = 0; l < kFloats; ++l) {
      out.square += double(square[l]);
      out.residue += double(residue[l]);
      out.coded += double(coded[l]);
      out.sum += sum[l];
    }
  }
  out.scale = scale;
  return out;
}

Coder::Encoded encode(const float* row, int64_t n, int largest, int64_t lane, void* panel_rows,
                      void*) {
  int16_t* panel = static_cast<int16_t*>(panel_rows) + 2 * lane;
  return encode_row(row, n, largest, [&](int64_t k, Int code) {
#pragma GCC unroll 16
    for (int64_t l = 0; l < kFloats; l += 2) {
      const int32_t two = (code[l] & 0xffff) | int32_t(uint32_t(code[l + 1]) << 16);
      __builtin_memcpy(panel + (k + l) * kPanel, &two, 4);
    }
  });
}

int survivors(const int32_t* dots, const TileBounds& t, int rows, uint64_t* masks) {
  int count = 0;
  Float column_low[kTileColumns / kFloats];
  for (int64_t c = 0; c < kTileColumns; c += kFloats) {
    column_low[c / kFloats] = *reinterpret_cast<const Float*>(t.column_low + c) -
                              *reinterpret_cast<const Float*>(t.column_residue + c) * t.largest_row;
  }
  for (int r = 0; r < rows; ++r) {
    const Float row_scale = t.row_scale[r] - Float{};
    const Float row_low = t.row_low[r] - Float{};
    const Float row_bound = t.row_bound[r] - Float{};
    uint64_t mask = 0;
#pragma GCC unroll 12
    for (int64_t c = 0; c < kTileColumns; c += kFloats) {
      const Int dot = *reinterpret_cast<const Int*>(dots + r * kTileColumns + c);
      const Float product =
          __builtin_convertvector(dot, Float) * *reinterpret_cast<const Float*>(t.column_scale + c);
      const Float low = row_low + column_low[c / kFloats];
      const Float column = *reinterpret_cast<const Float*>(t.column_bound + c);
      const Float bound = row_bound > column ? row_bound : column;
      mask |= at_most<float>(low - row_scale * product, bound) << c;
    }
    masks[r] = mask;
    count += __builtin_popcountll(mask);
  }
  return count;
}

void distances(const int32_t* dots, const TileBounds& t, int rows, float* out) {
  for (int r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < kTileColumns; c += kFloats) {
      const Int dot = *reinterpret_cast<const Int*>(dots + r * kTileColumns + c);
      const Float product =
          __builtin_convertvector(dot, Float) * *reinterpret_cast<const Float*>(t.column_scale + c);
      *reinterpret_cast<Float*>(out + r * kTileColumns + c) =
          t.row_low[r] + *reinterpret_cast<const Float*>(t.column_low + c) -
          t.row_scale[r] * product;
    }
  }
}

void minima(const float* distances, int rows, int32_t first_row, int32_t first_column,
            const Minima& m) {
  Int lane;
  for (int l = 0; l < kFloats; ++l) lane[l] = l;
  for (int64_t c = 0; c < kTileColumns; c += kFloats) {
    const Int column = lane + (first_column + int32_t(c));
    Float* least = reinterpret_cast<Float*>(m.column_value + c);
    Int* where = reinterpret_cast<Int*>(m.column_index + c);
    Float column_least = *least;
    Int column_where = *where;
    for (int r = 0; r < rows; ++r) {
      const Float d = *reinterpret_cast<const Float*>(distances + r * kTileColumns + c);
      Float* row_least = reinterpret_cast<Float*>(m.row_value + r * kPanel + c % kPanel);
      Int* row_where = reinterpret_cast<Int*>(m.row_index + r * kPanel + c % kPanel);
      const Int row = (first_row + r) - Int{};
      const Int above = column > row;  // each pair once, and no point with itself
      const Int nearer_row = (d < *row_least) & above;
      *row_least = nearer_row ? d : *row_least;
      *row_where = nearer_row ? column : *row_where;
      const Int nearer_column = (d < column_least) & above;
      column_least = nearer_column ? d : column_least;
      column_where = nearer_column ? row : column_where;
    }
    *least = column_least;
    *where = column_where;
  }
}

constexpr Coder kCoder = {2, 2, false, encode, dot};
constexpr Filter kFilter = {survivors, distances, minima};

}  // namespace
}  // namespace TSLOSS_NAMESPACE
}  // namespace tsloss
