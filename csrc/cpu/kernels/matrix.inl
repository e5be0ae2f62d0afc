// Checks of a distance matrix. Included after pairwise.inl by the file of each instruction set; the
// same rules hold.

namespace tsloss {
namespace TSLOSS_NAMESPACE {
namespace {

// Clang forgets the alignment if an alias template has it.
template <class T>
struct EightOf {
  typedef T Type __attribute__((vector_size(8 * sizeof(T)), may_alias, aligned(sizeof(T))));
};
template <class T>
using Eight = typename EightOf<T>::Type;
template <class T>
struct UnsignedOf {
  using Type = uint32_t;
};
template <>
struct UnsignedOf<double> {
  using Type = uint64_t;
};
static_assert(alignof(Eight<float>) == alignof(float) && alignof(Eight<double>) <= sizeof(double),
              "rows of a matrix begin anywhere");

// Makes row r the column r of 8 x 8 numbers, by three rounds of exchanges between pairs of
// vectors.
template <class T>
inline __attribute__((always_inline)) void transpose(Eight<T> (&x)[8]) {
  Eight<T> y[8];
  for (int round = 0; round < 3; ++round) {
    for (int r = 0; r < 4; ++r) {
      y[2 * r] = __builtin_shufflevector(x[r], x[r + 4], 0, 8, 1, 9, 2, 10, 3, 11);
      y[2 * r + 1] = __builtin_shufflevector(x[r], x[r + 4], 4, 12, 5, 13, 6, 14, 7, 15);
    }
    for (int r = 0; r < 8; ++r) x[r] = y[r];
  }
}

// Returns whether 8 x 8 numbers are finite and >= 0 and equal to their mirror image, which is read
// at the same time.
template <class T>
bool mirrored(const T* block, const T* mirror, int64_t stride) {
  Eight<T> x[8];
  for (int r = 0; r < 8; ++r) x[r] = *reinterpret_cast<const Eight<T>*>(mirror + r * stride);
  transpose<T>(x);
  auto good = x[0] == x[0];
  for (int r = 0; r < 8; ++r) {
    const Eight<T> y = *reinterpret_cast<const Eight<T>*>(block + r * stride);
    good &= (x[r] == y) & (y >= 0) & (y < T(__builtin_inff()));
  }
  bool all = true;
  for (int l = 0; l < 8; ++l) all &= good[l] != 0;
  return all;
}

typedef uint64_t Word __attribute__((vector_size(kVectorBytes), may_alias));
typedef uint32_t HalfWord __attribute__((vector_size(kVectorBytes), may_alias));

// Multiplies the lower halves of the lanes.
inline __attribute__((always_inline)) Word multiply_halves(Word x, Word y) {
#if defined(__AVX512F__)
  return (Word)_mm512_maskz_mul_epu32(0xff, (__m512i)x, (__m512i)y);
#elif defined(__AVX2__)
  return (Word)_mm256_mul_epu32((__m256i)x, (__m256i)y);
#elif defined(__SSE2__)
  return (Word)_mm_mul_epu32((__m128i)x, (__m128i)y);
#else
  return (x & 0xffffffffu) * (y & 0xffffffffu);
#endif
}

// The share of a number in a hash, by its bits and as many of a random weight: (low + low weight)
// (high + high weight) for the halves of 64 bits, the family NH of Black, Halevi, Krawczyk, Krovetz
// and Rogaway (UMAC: fast and secure message authentication, 1999); the product for 32 bits.
template <class T>
inline __attribute__((always_inline)) Word share_of(Word bits, Word weight) {
  if constexpr (sizeof(T) == 4) return multiply_halves(bits, weight);
  const Word sum = (Word)((HalfWord)bits + (HalfWord)weight);
  return multiply_halves(sum, sum >> 32);
}

// A hash that tells in one read, row by row in any order, whether a matrix is symmetric. Row u has
// the sum over j of share(d[u][j], weight j), and column u that over j of share(d[j][u], weight j),
// modulo 2^64: those of a symmetric matrix agree.
//
// If the bits of d[i][j] and d[j][i] differ, row i agrees with column i for at most one in 2^32 of
// the values that weight j can have, for any values of the other weights, since two different
// shares differ by a given amount for no more of them. The same holds for row j and weight i. So
// the probability that random weights let a matrix pass that is not symmetric is at most 2^-64, for
// any matrix that was made without knowing them.
//
// Returns whether there are numbers that are infinite (1), or NaN or negative, -0 included (2).
template <class T>
int hash_row(const T* row, int64_t n, int64_t u, const void* random, uint64_t* columns,
             uint64_t* sum) {
  typedef uint64_t LooseWord __attribute__((vector_size(kVectorBytes), may_alias, aligned(8)));
  typedef typename UnsignedOf<T>::Type Bits;
  constexpr int64_t kWidth = kVectorBytes / 8;
  typedef Bits LooseBits
      __attribute__((vector_size(kWidth * sizeof(T)), may_alias, aligned(sizeof(T))));
  const Bits* weights = static_cast<const Bits*>(random);  // as wide as the numbers
  const Word own = uint64_t{weights[u]} - Word{};
  Word total = {}, most = {};
  const auto add = [&](Word bits, Word other) __attribute__((always_inline)) {
    if constexpr (sizeof(T) == 4) {  // the upper halves are 0
      most = (Word)((HalfWord)bits > (HalfWord)most ? (HalfWord)bits : (HalfWord)most);
    } else {
      most = bits > most ? bits : most;
    }
    total += share_of<T>(bits, other);
    return share_of<T>(bits, own);
  };
  int64_t j = 0;
  for (; j + kWidth <= n; j += kWidth) {
    LooseWord* column = reinterpret_cast<LooseWord*>(columns + j);
    *column += add(__builtin_convertvector(*reinterpret_cast<const LooseBits*>(row + j), Word),
                   __builtin_convertvector(*reinterpret_cast<const LooseBits*>(weights + j), Word));
  }
  for (; j < n; ++j) {
    Bits bits;
    __builtin_memcpy(&bits, row + j, sizeof bits);
    Word one = {}, other = {};
    one[0] = bits;
    other[0] = weights[j];
    // The other lanes are 0 and weigh nothing.
    columns[j] += add(one, other)[0];
  }
  uint64_t result = 0, largest = 0;
  for (int64_t l = 0; l < kWidth; ++l) {
    result += total[l];
    largest = most[l] > largest ? most[l] : largest;
  }
  *sum = result;
  constexpr uint64_t kInfinite = sizeof(T) == 4 ? 0x7f800000u : uint64_t{0x7ff} << 52;
  return largest > kInfinite ? 2 : largest == kInfinite ? 1 : 0;
}

}  // namespace
}  // namespace TSLOSS_NAMESPACE
}  // namespace tsloss
