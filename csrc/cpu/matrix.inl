// Checks of a distance matrix. Included after pairwise.inl by the file of each instruction set; the
// same rules hold.

namespace tsloss {
namespace TSLOSS_NAMESPACE {
namespace {

template <class T>
using Eight __attribute__((vector_size(8 * sizeof(T)), may_alias, aligned(sizeof(T)))) = T;

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

}  // namespace
}  // namespace TSLOSS_NAMESPACE
}  // namespace tsloss
