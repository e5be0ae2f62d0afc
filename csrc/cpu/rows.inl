// Kernels over single rows: the relaxation step of Prim, the final lengths, the gradient.
// Included after pairwise.inl by the file of each instruction set; the same rules hold.

namespace tsloss {
namespace TSLOSS_NAMESPACE {
namespace {

// For a fixed j, (min(u, j), max(u, j)) grows with u, so the tie rule (length, smaller index,
// larger index) between two candidate edges of j is a comparison of their other ends.
template <class T>
T relax(const T* keys, const T* dead, int64_t n, int32_t u, T* best, int32_t* from) {
  T least = __builtin_inff();
#pragma omp simd reduction(min : least)
  for (int64_t j = 0; j < n; ++j) {
    const T key = keys[j] + dead[j];
    const T old = best[j];
    const int32_t other = from[j];
    const bool shorter = (key < old) | ((key == old) & (u < other));
    const T now = shorter ? key : old;
    best[j] = now;
    from[j] = shorter ? u : other;
    least = now < least ? now : least;
  }
  return least;
}

// Eight accumulators in double on every instruction set: the lengths that are reported do not
// depend on the width of the vectors (up to fused multiply-add).
template <class T>
double refine(const T* x, const T* y, int64_t n, Term term) {
  typedef double Vec8 __attribute__((vector_size(64)));
  typedef T Narrow8 __attribute__((vector_size(8 * sizeof(T)), may_alias));
  Vec8 acc = {};
  if (term == Term::kSquared) {
    for (int64_t k = 0; k < n; k += 8) {
      const Vec8 d = __builtin_convertvector(*reinterpret_cast<const Narrow8*>(x + k), Vec8) -
                     __builtin_convertvector(*reinterpret_cast<const Narrow8*>(y + k), Vec8);
      acc += d * d;
    }
  } else {
    for (int64_t k = 0; k < n; k += 8) {
      const Vec8 d = __builtin_convertvector(*reinterpret_cast<const Narrow8*>(x + k), Vec8) -
                     __builtin_convertvector(*reinterpret_cast<const Narrow8*>(y + k), Vec8);
      acc += d < 0 ? -d : d;
    }
  }
  return ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]));
}

// 0 * finite = 0, 0 * inf = 0 * NaN = NaN: a sum that stays in vectors.
template <class T>
bool all_finite(const T* x, int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < n; ++k) sum += T{0} * x[k];
  return sum == 0;
}

template <class T>
void add_scaled_difference(const T* x, const T* y, int64_t n, T w, T* out) {
#pragma omp simd
  for (int64_t k = 0; k < n; ++k) out[k] += w * (x[k] - y[k]);
}

}  // namespace

const Kernels<float> kFloat = {block<float>,  row<float>,        relax<float>,
                               refine<float>, all_finite<float>, add_scaled_difference<float>};
const Kernels<double> kDouble = {block<double>,  row<double>,        relax<double>,
                                 refine<double>, all_finite<double>, add_scaled_difference<double>};

}  // namespace TSLOSS_NAMESPACE
}  // namespace tsloss
