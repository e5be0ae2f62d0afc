// Distance kernels, written with the compiler's vector types and compiled once per instruction set:
// TSLOSS_NAMESPACE and kVectorBytes are those of kernels.inl.
//
// The kernels compute direct differences, never the Gram form: all terms are >= 0, so the relative
// error of a sum is bounded by (kChunk / lanes + a few) * epsilon at any offset of the cloud, and
// coincident points give exactly 0. No kernel may use a template of the standard library: the
// linker could keep the copy that was compiled for AVX-512 and use it everywhere.

// The compiler may fuse a multiplication and an addition: GCC because of a flag of the file, Clang
// because of the pragma here. A function whose results have the same bits on every processor
// forbids it: GCC reads the attribute, Clang the pragma in the body.
#if defined(__clang__)
#pragma clang fp contract(fast)
#define TSLOSS_UNFUSED
#define TSLOSS_UNFUSED_BODY _Pragma("clang fp contract(off)")
#else
#define TSLOSS_UNFUSED __attribute__((optimize("fp-contract=off")))
#define TSLOSS_UNFUSED_BODY
#endif

namespace tsloss {
namespace TSLOSS_NAMESPACE {
namespace {

template <class T>
struct Simd {
  typedef T Vec __attribute__((vector_size(kVectorBytes), may_alias));
  // A vector at any address of a number: processors with AVX load it as fast.
  typedef T Loose __attribute__((vector_size(kVectorBytes), may_alias, aligned(sizeof(T))));
  static constexpr int64_t kWidth = kVectorBytes / sizeof(T);
};

template <class T>
inline __attribute__((always_inline)) typename Simd<T>::Vec load(const T* x) {
  return *reinterpret_cast<const typename Simd<T>::Loose*>(x);
}

// Keeps a vector in its register: GCC 12 would read it from memory again for each use.
template <class V>
inline __attribute__((always_inline)) void keep(V& x) {
#if defined(__AVX512F__)
  asm("" : "+v"(x));
#elif defined(__SSE2__)
  asm("" : "+x"(x));
#else
  (void)x;
#endif
}

// Clearing the sign bit is one instruction; a comparison and a choice are three.
template <class T>
inline __attribute__((always_inline)) typename Simd<T>::Vec magnitude(typename Simd<T>::Vec x) {
  using Bits = typename Simd<Index<T>>::Vec;
  constexpr Index<T> kMagnitude = sizeof(T) == 4 ? static_cast<Index<T>>(0x7fffffff)
                                                 : static_cast<Index<T>>(0x7fffffffffffffff);
  return (typename Simd<T>::Vec)((Bits)x & kMagnitude);
}

// Adds (x - y)^2 or |x - y| to a sum.
template <class T, Term kTerm>
inline __attribute__((always_inline)) void accumulate(typename Simd<T>::Vec& sum,
                                                      typename Simd<T>::Vec x,
                                                      typename Simd<T>::Vec y) {
  const typename Simd<T>::Vec d = x - y;
  sum += kTerm == Term::kSquared ? d * d : magnitude<T>(d);
}

// A sum is cut into chunks of the dimension, which bounds its rounding error. Four rows of a chunk
// fit into the L1 cache; with shorter ones the sums of the lanes would take longer than is won.
constexpr int64_t kChunk = kVectorBytes == 64 ? 2048 : 1024;

// Adds the lanes of each of kCount accumulators, halving, in an order that depends on the width
// alone, to sums.
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

// Gives the same sums as reduce, to the bit, for a multiple of kWidth accumulators: the lanes of
// all of them are added at once, by folding pairs of accumulators until a vector of sums is left.
template <class T, int kCount>
inline __attribute__((always_inline)) void reduce_tile(typename Simd<T>::Vec (&acc)[kCount],
                                                       T (&sums)[kCount]) {
  constexpr int kWidth = static_cast<int>(Simd<T>::kWidth);
  static_assert(kCount % kWidth == 0);
#pragma GCC unroll 8
  for (int group = 0; group < kCount; group += kWidth) {
    fold_all<T, kWidth / 2>(acc + group);
    *reinterpret_cast<typename Simd<T>::Vec*>(sums + group) = acc[group];
  }
}

// Room for kCount sums: reduce_tile takes whole vectors of them.
template <class T, int kCount>
constexpr int kRoom =
    (kCount + int(Simd<T>::kWidth) - 1) / int(Simd<T>::kWidth) * int(Simd<T>::kWidth);

// sums[i * kNJ + j] = the part of the key of (a[i], b[j]) in the coordinates [begin, end). A tile
// of 4x4 (AVX-512, 32 registers) or 2x4 (16 registers) pairs: each loaded row serves 4 or 2 pairs,
// and there are enough independent accumulators to hide the latency of the multiply-add.
template <class T, Term kTerm, int kNI, int kNJ>
inline __attribute__((always_inline)) void tile(const T* const (&a)[kNI], const T* const (&b)[kNJ],
                                                int64_t begin, int64_t end,
                                                T (&sums)[kRoom<T, kNI * kNJ>]) {
  using Vec = typename Simd<T>::Vec;
  Vec acc[kRoom<T, kNI * kNJ>] = {};
  for (int64_t k = begin; k < end; k += Simd<T>::kWidth) {
    Vec y[kNJ];
#pragma GCC unroll 4
    for (int j = 0; j < kNJ; ++j) {
      y[j] = load(b[j] + k);
      keep(y[j]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kNI; ++i) {
      const Vec x = load(a[i] + k);
#pragma GCC unroll 4
      for (int j = 0; j < kNJ; ++j) accumulate<T, kTerm>(acc[i * kNJ + j], x, y[j]);
    }
  }
  reduce_tile<T>(acc, sums);
}

// sums = the parts of the keys of the pairs i < j of kN rows, in that order.
template <class T, Term kTerm, int kN>
inline __attribute__((always_inline)) void triangle(const T* const (&a)[kN], int64_t begin,
                                                    int64_t end,
                                                    T (&sums)[kRoom<T, kN*(kN - 1) / 2>]) {
  using Vec = typename Simd<T>::Vec;
  Vec acc[kRoom<T, kN*(kN - 1) / 2>] = {};
  for (int64_t k = begin; k < end; k += Simd<T>::kWidth) {
    Vec x[kN];
#pragma GCC unroll 4
    for (int i = 0; i < kN; ++i) {
      x[i] = load(a[i] + k);
      keep(x[i]);
    }
    int p = 0;
#pragma GCC unroll 4
    for (int i = 0; i < kN; ++i) {
#pragma GCC unroll 4
      for (int j = i + 1; j < kN; ++j) accumulate<T, kTerm>(acc[p++], x[i], x[j]);
    }
  }
  reduce_tile<T>(acc, sums);
}

constexpr int kGroup = 4;  // rows of a tile, or its columns
constexpr int kTileHeight = kVectorBytes == 64 ? 4 : 2;

// The keys of a block, built up chunk by chunk.
template <class T, Term kTerm>
class KeyBlock {
 public:
  KeyBlock(const Rows<T>& rows, T* keys, int64_t stride)
      : rows_(rows), keys_(keys), stride_(stride) {}

  // The coordinates of all that follows.
  void set_chunk(int64_t begin, int64_t end) {
    begin_ = begin;
    end_ = end;
  }

  // The pairs of kNI rows from i on with kNJ rows from j on.
  template <int kNI, int kNJ>
  inline __attribute__((always_inline)) void between(int64_t i, int64_t j) {
    const T* a[kNI];
    const T* b[kNJ];
    for (int r = 0; r < kNI; ++r) a[r] = rows_[i + r];
    for (int c = 0; c < kNJ; ++c) b[c] = rows_[j + c];
    alignas(128) T sums[kRoom<T, kNI * kNJ>];
    tile<T, kTerm, kNI, kNJ>(a, b, begin_, end_, sums);
    typedef T Four __attribute__((vector_size(4 * sizeof(T)), may_alias, aligned(sizeof(T))));
    static_assert(kNJ == 4);
    for (int r = 0; r < kNI; ++r) {
      Four* out = reinterpret_cast<Four*>(keys_ + (i + r) * stride_ + j);
      Four& row = *reinterpret_cast<Four*>(sums + 4 * r);
      if (begin_ > 0) row += *out;
      *out = row;
    }
    if (end_ < rows_.dim) return;
    if constexpr (kNI == 4) {
      typedef T Tile __attribute__((vector_size(16 * sizeof(T)), may_alias));
      Tile& all = *reinterpret_cast<Tile*>(sums);
      all = __builtin_shufflevector(all, all, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
      for (int c = 0; c < 4; ++c) {
        *reinterpret_cast<Four*>(keys_ + (j + c) * stride_ + i) =
            *reinterpret_cast<Four*>(sums + 4 * c);
      }
    } else {
      for (int c = 0; c < 4; ++c) {
        for (int r = 0; r < kNI; ++r) keys_[(j + c) * stride_ + i + r] = sums[4 * r + c];
      }
    }
  }

  // The pairs of kN rows from i on.
  template <int kN>
  inline __attribute__((always_inline)) void within(int64_t i) {
    const T* a[kN];
    for (int r = 0; r < kN; ++r) a[r] = rows_[i + r];
    alignas(64) T sums[kRoom<T, kN*(kN - 1) / 2>];
    triangle<T, kTerm, kN>(a, begin_, end_, sums);
    int p = 0;
    for (int r = 0; r < kN; ++r) {
      for (int c = r + 1; c < kN; ++c) {
        T& key = keys_[(i + r) * stride_ + i + c];
        T& mirror = keys_[(i + c) * stride_ + i + r];
        mirror = key = begin_ == 0 ? sums[p++] : key + sums[p++];
      }
    }
  }

  // The pairs of four rows from i on with `count` rows from j on.
  void columns(int64_t i, int64_t j, int64_t count) {
    if (count == kGroup) {
#pragma GCC unroll 2
      for (int r = 0; r < kGroup; r += kTileHeight) between<kTileHeight, kGroup>(i + r, j);
      return;
    }
    if (count & 2) between<2, kGroup>(j, i);
    if (count & 1) between<1, kGroup>(j + (count & 2), i);
  }

  // The pairs of `count` rows from i on.
  void diagonal(int64_t i, int64_t count) {
    if (count == 4) within<4>(i);
    if (count == 3) within<3>(i);
    if (count == 2) within<2>(i);
    if (begin_ == 0) {
      for (int64_t r = i; r < i + count; ++r) keys_[r * stride_ + r] = 0;
    }
  }

 private:
  const Rows<T>& rows_;
  T* keys_;
  int64_t stride_;
  int64_t begin_ = 0, end_ = 0;
};

template <class T, Term kTerm>
__attribute__((noinline)) void block_of(const Rows<T>& rows, int64_t i_begin, int64_t i_end,
                                        int64_t j_begin, int64_t j_end, T* keys, int64_t stride) {
  KeyBlock<T, kTerm> block(rows, keys, stride);
  for (int64_t begin = 0; begin < rows.dim; begin += kChunk) {
    block.set_chunk(begin, begin + kChunk < rows.dim ? begin + kChunk : rows.dim);
    // Four columns stay in the cache while rows go by.
    for (int64_t j = j_begin; j < j_end; j += kGroup) {
      const int64_t count = j + kGroup < j_end ? kGroup : j_end - j;
      const int64_t above = i_end < j ? i_end : j;
      for (int64_t i = i_begin; i < above; i += kGroup) block.columns(i, j, count);
      if (j >= i_begin && j < i_end) block.diagonal(j, count);
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
__attribute__((noinline)) void pairs_of(const T* const* rows, const T* const* columns,
                                        int64_t count, int64_t dim, T* keys) {
  using Vec = typename Simd<T>::Vec;
  constexpr int kAtOnce = 4;
  for (int64_t p = 0; p < count; p += kAtOnce) {
    const T* a[kAtOnce];
    const T* b[kAtOnce];
    for (int q = 0; q < kAtOnce; ++q) {
      const int64_t pair = p + q < count ? p + q : count - 1;
      a[q] = rows[pair];
      b[q] = columns[pair];
    }
    T sums[kAtOnce] = {};
    for (int64_t begin = 0; begin < dim; begin += kChunk) {
      const int64_t end = begin + kChunk < dim ? begin + kChunk : dim;
      Vec acc[kAtOnce] = {};
      for (int64_t k = begin; k < end; k += Simd<T>::kWidth) {
#pragma GCC unroll 4
        for (int q = 0; q < kAtOnce; ++q) {
          accumulate<T, kTerm>(acc[q], load(a[q] + k), load(b[q] + k));
        }
      }
      reduce<T, kAtOnce>(acc, sums);
    }
    for (int q = 0; q < kAtOnce && p + q < count; ++q) keys[p + q] = sums[q];
  }
}

template <class T>
void pairs(const T* const* rows, const T* const* columns, int64_t count, int64_t dim, Term term,
           T* keys) {
  if (term == Term::kSquared) {
    pairs_of<T, Term::kSquared>(rows, columns, count, dim, keys);
  } else {
    pairs_of<T, Term::kAbsolute>(rows, columns, count, dim, keys);
  }
}

template <class T, Term kTerm>
__attribute__((noinline)) void rectangle_of(const T* const* rows, const T* const* columns,
                                            int64_t dim, T* keys) {
  for (int64_t begin = 0; begin < dim; begin += kChunk) {
    const int64_t end = begin + kChunk < dim ? begin + kChunk : dim;
    for (int64_t c = 0; c < kTileColumns; c += kGroup) {
      const T* b[kGroup];
      for (int j = 0; j < kGroup; ++j) b[j] = columns[c + j];
      for (int64_t r = 0; r < kTileRows; r += kTileHeight) {
        const T* a[kTileHeight];
        for (int i = 0; i < kTileHeight; ++i) a[i] = rows[r + i];
        alignas(64) T sums[kRoom<T, kTileHeight * kGroup>];
        tile<T, kTerm, kTileHeight, kGroup>(a, b, begin, end, sums);
        for (int i = 0; i < kTileHeight; ++i) {
          for (int j = 0; j < kGroup; ++j) {
            T& key = keys[(r + i) * kTileColumns + c + j];
            const T part = sums[i * kGroup + j];
            key = begin == 0 ? part : key + part;
          }
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
