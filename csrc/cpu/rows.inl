// Kernels over single rows: the relaxation step of Prim, the final lengths, the gradient.
// Included after pairwise.inl by the file of each instruction set; the same rules hold.

namespace tsloss {
namespace TSLOSS_NAMESPACE {
namespace {

// One step of dense Prim. For a fixed j, (min(u, j), max(u, j)) grows with u, so the tie rule
// (length, smaller index, larger index) between two candidate edges of j is a comparison of their
// other ends. For a vertex in the tree (dead = inf, bottleneck >= 0) the longest edge on the path to
// u is kept instead, which in Prim's order is the largest height since it came in: pairs whose
// key is within `band` times it are counted, for they might belong to the tree if keys were exact.
template <class T>
T relax(const T* keys, const T* dead, int64_t n, int32_t u, T height, T band, T* best,
        int32_t* from, T* bottleneck, int64_t* close) {
  T least = __builtin_inff();
  T count = 0;
#pragma omp simd reduction(min : least) reduction(+ : count)
  for (int64_t j = 0; j < n; ++j) {
    const T raw = keys[j];
    const T key = raw + dead[j];
    const T old = best[j];
    const int32_t other = from[j];
    const bool shorter = (key < old) | ((key == old) & (u < other));
    const T now = shorter ? key : old;
    best[j] = now;
    from[j] = shorter ? u : other;
    least = now < least ? now : least;
    const T before = bottleneck[j];
    const T after = (before >= 0) & (before < height) ? height : before;
    bottleneck[j] = after;
    count += (raw <= after * band) & (raw > 0) ? T{1} : T{0};
  }
  *close += static_cast<int64_t>(count);
  return least;
}

// Eight accumulators in double and no fused multiply-add: these keys, which decide the tree and are
// reported, are the same bits on every instruction set.
template <class T>
#if defined(__GNUC__) && !defined(__clang__)
__attribute__((optimize("fp-contract=off")))
#endif
double refine(const T* x, const T* y, int64_t n, Term term) {
  typedef double Vec8 __attribute__((vector_size(64), may_alias));
  typedef T Narrow8 __attribute__((vector_size(8 * sizeof(T)), may_alias));
  Vec8 acc = {};
  if (term == Term::kSquared) {
    for (int64_t k = 0; k < n; k += 8) {
      const Vec8 d = __builtin_convertvector(*reinterpret_cast<const Narrow8*>(x + k), Vec8) -
                     __builtin_convertvector(*reinterpret_cast<const Narrow8*>(y + k), Vec8);
      const Vec8 square = d * d;
      acc += square;
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

template <class T>
constexpr Kernels<T> table() {
  return {block<T>,  pairs<T>,  rectangle<T>,  pack<T>,
          panel_tile<T>, mirror<T>, hits<T>, relax<T>, refine<T>,
          all_finite<T>, add_scaled_difference<T>, rounding<T>, panel_rounding<T>};
}

}  // namespace

const Kernels<float> kFloat = table<float>();
const Kernels<double> kDouble = table<double>();

}  // namespace TSLOSS_NAMESPACE
}  // namespace tsloss
