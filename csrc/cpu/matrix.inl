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
static_assert(alignof(Eight<float>) == alignof(float) && alignof(Eight<double>) <= sizeof(double),
              "rows of a matrix begin anywhere");

// Row r becomes column r of 8 x 8 numbers: three rounds of exchanges between pairs of vectors.
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

// Whether 8 x 8 numbers are finite and >= 0 and equal to their mirror image, which is read in the
// same go.
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

// A hash that tells in one read, row by row in any order, whether a matrix is symmetric: with h(x)
// a mix of the bits of x and odd random weights w, row u has the sum over j of h(d[u][j]) w[j] and
// column u that over j of h(d[j][u]) w[j], modulo 2^32. Those of a symmetric matrix agree. If it is
// not symmetric, neither are they, but by chance: a row that differs from its column in one place
// cannot agree, since w is odd; one that differs in several does about once in 2^32.
template <class T>
bool hash_row(const T* row, int64_t n, uint32_t weight, const uint32_t* weights, uint32_t* columns,
              uint32_t* sum) {
  uint32_t total = 0;
  int bad = 0;
#pragma omp simd reduction(+ : total) reduction(| : bad)
  for (int64_t j = 0; j < n; ++j) {
    Index<T> b;
    __builtin_memcpy(&b, row + j, sizeof b);
    bad |= !(row[j] >= 0) | !(row[j] < T(__builtin_inff()));
    // Without the sign: -0 is 0.
    uint32_t h = static_cast<uint32_t>(b) << 1;
    if constexpr (sizeof(T) == 8) {
      h = static_cast<uint32_t>(b) ^ (static_cast<uint32_t>(b >> 32) << 1) * 0x9e3779b1u;
    }
    h ^= h >> 11 ^ h >> 23;  // differences of exponents alone get low bits too
    total += h * weights[j];
    columns[j] += h * weight;
  }
  *sum = total;
  return bad == 0;
}

}  // namespace
}  // namespace TSLOSS_NAMESPACE
}  // namespace tsloss
