// The rows of a large cloud in a given order, packed into panels of 16 and blocks of 48, either as
// the low-precision codes of the filter or as coordinates. A tile is half a panel of packed rows
// against a block of the same or of other packed rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/kernels/kernels.h"
#include "cpu/runtime/buffer.h"
#include "cpu/runtime/thread_pool.h"

namespace tsloss {

// This covers the rounding of norms and of the few operations of the filter; see codes.inl.
constexpr float kSlack = 1.0f / (1 << 17);
// These cover what squares lose in float, where those of numbers below 1e-19 vanish. The largest
// coordinate is scaled to about 1.
constexpr float kTinyNorm = 1e-18f;
constexpr float kTinySquare = 1e-34f;

// The affine map that is applied to rows before they are coded. It subtracts their approximate
// mean, and scales the largest coordinate to about 1 by a power of two. Results are right with any
// centre and scale that all rows share; these lose few digits.
template <class T>
class CentredScaling {
 public:
  bool chosen() const { return !centre_.empty(); }

  // Centres on the mean of row(p), p < count; `largest` is the largest |coordinate| of all points.
  template <class Row>
  void choose(int64_t count, int64_t stride, T largest, const Row& row) {
    std::vector<double> sum(static_cast<size_t>(stride), 0.0);
    for (int64_t p = 0; p < count; ++p) {
      for (int64_t k = 0; k < stride; ++k) sum[k] += double(row(p)[k]) * (1.0 / double(count));
    }
    centre_.assign(sum.begin(), sum.end());
    exponent_ = largest > 0 ? -std::ilogb(largest) - 2 : 0;
  }

  void apply(const T* x, float* t) const {
    const int64_t stride = static_cast<int64_t>(centre_.size());
    // Within these limits the scale is in the range of T. Other scales need a wider exponent.
    if (std::abs(exponent_) < (sizeof(T) == 4 ? 60 : 500)) {
      const T scale = std::ldexp(T{1}, exponent_);
      for (int64_t k = 0; k < stride; ++k) t[k] = static_cast<float>((x[k] - centre_[k]) * scale);
    } else {
      for (int64_t k = 0; k < stride; ++k) {
        const long double d = static_cast<long double>(x[k]) - centre_[k];
        t[k] = static_cast<float>(std::ldexp(d, exponent_));
      }
    }
  }

  // Converts a bound on keys to the units of the scaled rows, rounded up.
  float bound(T key) const {
    const long double scaled = std::ldexp(static_cast<long double>(key), 2 * exponent_);
    return static_cast<float>(scaled) * (1 + 0x1p-20f) + kTinySquare;
  }

 private:
  std::vector<T> centre_;
  int exponent_ = 0;
};

template <class T>
class PackedRows {
 public:
  // Memory that callers keep between calls instead of allocating it again.
  struct Scratch {
    Buffer<T> panels;
    Buffer<char> code_rows;
    Buffer<char> code_columns;
    int64_t bytes() const { return panels.bytes() + code_rows.bytes() + code_columns.bytes(); }
  };

  PackedRows(int64_t dim, Scratch& scratch)
      : dim_(dim),
        stride_(round_up(std::max<int64_t>(dim, 1), kLanes)),
        coder_(coder(stride_)),
        scratch_(scratch) {}

  int64_t size() const { return m_; }
  int64_t panels() const { return round_up(m_, kTileColumns) / kPanel; }
  int64_t blocks() const { return panels() / kTilePanels; }
  int64_t padded() const { return blocks() * kTileColumns; }

  // Packs the codes of m points. row(p) returns point p, aligned and padded.
  template <class Row>
  void encode(int64_t m, const CentredScaling<T>& scaling, int threads, const Row& row) {
    m_ = m;
    groups_ = stride_ / coder_.group;
    const int64_t bytes = checked_mul(padded(), stride_ * coder_.code_bytes);
    char* first = scratch_.code_rows.reserve(bytes);
    char* second = coder_.two_copies ? scratch_.code_columns.reserve(bytes) : first;
    code_rows_ = first;
    code_columns_ = second;
    // Codes are so small that the sum of their products over the dimension stays within 32 bits.
    const int largest =
        coder_.code_bytes == 1
            ? 127
            : std::min(32767, static_cast<int>(std::sqrt(2147483647.0 / double(stride_))));
    for (Buffer<float>* b : {&scale_, &square_, &low_, &coded_norm_, &residue_})
      b->reserve(padded());
    sum_.reserve(padded());
    const int64_t panel_bytes = kPanel * stride_ * coder_.code_bytes;
    parallel_for(blocks(), threads, [&](int64_t block, int) {
      Buffer<float> buffer;
      float* t = buffer.reserve(stride_);
      for (int64_t p = block * kTileColumns; p < (block + 1) * kTileColumns; ++p) {
        scaling.apply(row(std::min(p, m_ - 1)), t);
        char* a = first + p / kPanel * panel_bytes;
        char* b = second + p / kPanel * panel_bytes;
        const Coder::Encoded e = coder_.encode(t, stride_, largest, p % kPanel, a, b);
        const float norm = float(std::sqrt(e.square));
        scale_.data()[p] = e.scale;
        square_.data()[p] = p < m_ ? float(e.square) : std::numeric_limits<float>::infinity();
        low_.data()[p] = square_.data()[p] * (1 - kSlack);
        coded_norm_.data()[p] = float(std::sqrt(e.coded)) * (1 + kSlack);
        residue_.data()[p] = float(std::sqrt(e.residue)) * (1 + kSlack) + norm * 0x1p-22f +
                             kTinyNorm * std::sqrt(float(stride_));
        sum_.data()[p] = coder_.two_copies ? static_cast<int32_t>(-128 * e.sum) : 0;
      }
    });
  }

  // Packs the coordinates of m points. load(p, x) writes point p to an aligned and padded row.
  template <class Load>
  void pack(int64_t m, int threads, const Load& load) {
    m_ = m;
    const int64_t size = dim_ * kPanel;
    T* out = scratch_.panels.reserve(panels(), std::max<int64_t>(size, 1));
    parallel_for(panels(), threads, [&](int64_t panel, int) {
      Buffer<T> buffer;
      T* x = buffer.reserve(kPanel * stride_);
      const int64_t begin = std::min(panel * kPanel, m_ - 1);
      const int64_t count = std::min(kPanel, m_ - begin);
      for (int64_t l = 0; l < count; ++l) load(begin + l, x + l * stride_);
      kernels<T>().pack(Rows<T>{x, stride_, stride_}, count, dim_, out + panel * size);
    });
  }

  // Writes the coordinates of point p, padded with zeros, to a row. They must have been packed.
  void unpack(int64_t p, T* x) const {
    const T* panel = scratch_.panels.data() + p / kPanel * kPanel * dim_ + p % kPanel;
    for (int64_t k = 0; k < dim_; ++k) x[k] = panel[k * kPanel];
    std::fill(x + dim_, x + stride_, T{0});
  }

  // ---- tiles: 8 rows from i on, a multiple of 8, against block t of `columns` ----

  // Inner products of codes, [8][48].
  void dot(int64_t i, const PackedRows& columns, int64_t t, int32_t* dots) const {
    const int64_t panel_bytes = kPanel * stride_ * coder_.code_bytes;
    const int64_t lane_bytes = coder_.group * coder_.code_bytes;
    coder_.dot(code_rows_ + i / kPanel * panel_bytes + i % kPanel * lane_bytes,
               columns.code_columns_ + t * kTilePanels * panel_bytes, groups_, sum_.data() + i,
               dots);
  }

  // Keys of the tile, [8][48], computed from coordinates.
  void panel_keys(int64_t i, const PackedRows& columns, int64_t t, Term term, T* keys) const {
    const int64_t size = dim_ * kPanel;
    kernels<T>().panel_tile(scratch_.panels.data() + i / kPanel * size + i % kPanel,
                            columns.scratch_.panels.data() + t * kTilePanels * size, dim_, term,
                            kTilePanels, keys);
  }

  // The largest norm of the codes of block t.
  float largest_norm(int64_t t) const {
    const int64_t begin = t * kTileColumns, end = std::min(m_, begin + kTileColumns);
    return *std::max_element(coded_norm_.data() + begin, coded_norm_.data() + end);
  }

  // Lower bounds of the squared distances of a tile, from its codes.
  class Codes {
   public:
    // `largest_column` is the largest_norm of the block of columns.
    Codes(const PackedRows& a, int64_t i, int rows, const PackedRows& b, int64_t t,
          float largest_column) {
      a.dot(i, b, t, dots_);
      float largest = 0;
      for (int r = 0; r < rows; ++r) {
        const int64_t p = i + r;
        const float residue = a.residue_.data()[p];
        largest = std::max(largest, a.coded_norm_.data()[p] + residue);
        twice_[r] = 2 * a.scale_.data()[p];
        row_low_[r] = a.low_.data()[p] - 2 * residue * largest_column * (1 + kSlack);
      }
      const int64_t c = t * kTileColumns;
      bounds_ = {nullptr,
                 nullptr,
                 nullptr,
                 b.scale_.data() + c,
                 b.low_.data() + c,
                 b.residue_.data() + c,
                 2 * largest * (1 + kSlack),
                 nullptr};
    }

    // Tests `rows` rows from `first` on. Sets masks[r] to the columns of row r whose lower bound is
    // at most the larger of row_bound[r - first] and the column's bound. Returns their number.
    int survivors(int first, int rows, const float* row_bound, const float* column_bound,
                  uint64_t* masks) const {
      TileBounds b = bounds_;
      b.row_scale = twice_ + first;
      b.row_low = row_low_ + first;
      b.row_bound = row_bound;
      b.column_bound = column_bound;
      return filter().survivors(dots_ + first * kTileColumns, b, rows, masks + first);
    }

   private:
    alignas(64) int32_t dots_[kTileRows * kTileColumns];
    float twice_[kTileRows];
    float row_low_[kTileRows];
    TileBounds bounds_;
  };

  // Sets `near` to squared distances, [8][48], up to the error of the codes.
  void approximate(int64_t i, const PackedRows& columns, int64_t t, int rows, float* near) const {
    alignas(64) int32_t dots[kTileRows * kTileColumns];
    dot(i, columns, t, dots);
    float twice[kTileRows];
    for (int64_t r = 0; r < kTileRows; ++r) twice[r] = 2 * scale_.data()[i + r];
    const int64_t c = t * kTileColumns;
    const TileBounds bounds{twice,
                            square_.data() + i,
                            nullptr,
                            columns.scale_.data() + c,
                            columns.square_.data() + c,
                            nullptr,
                            0.0f,
                            nullptr};
    filter().distances(dots, bounds, rows, near);
  }

 private:
  const int64_t dim_, stride_;
  const Coder& coder_;
  Scratch& scratch_;
  int64_t m_ = 0;
  int64_t groups_ = 0;
  const char* code_rows_ = nullptr;
  const char* code_columns_ = nullptr;
  Buffer<float> scale_, square_, low_, coded_norm_, residue_;
  Buffer<int32_t> sum_;
};

}  // namespace tsloss
