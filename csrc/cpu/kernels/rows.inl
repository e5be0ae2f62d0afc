// Kernels over single rows: the relaxation step of Prim, the final lengths, the gradient.
// Included after pairwise.inl by the file of each instruction set; the same rules hold.

namespace tsloss {
namespace TSLOSS_NAMESPACE {
namespace {

template <class T>
inline __attribute__((always_inline)) T least_lane(typename Simd<T>::Vec x) {
#pragma GCC unroll 4
  for (int64_t half = Simd<T>::kWidth / 2; half > 0; half /= 2) {
    typename Simd<T>::Vec other = x;
#pragma GCC unroll 16
    for (int64_t l = 0; l < half; ++l) other[l] = x[l + half];
    x = other < x ? other : x;
  }
  return x[0];
}

// One step of dense Prim. For a fixed j, (min(u, j), max(u, j)) grows with u, so the tie rule
// (length, smaller index, larger index) between two candidate edges of j is a comparison of their
// other ends. Vertices in the tree have best = -1.
//
// If kContest is set, each vertex in the tree (bottleneck >= 0) keeps the longest edge on its path
// to u, which in Prim's order is the largest height since the vertex came in. Pairs whose key is
// within `band` times that edge are counted, because they might belong to the tree if keys were
// exact.
template <class T, bool kContest>
T relax_of(const T* keys, int64_t n, Index<T> u, T height, T band, T* best, Index<T>* from,
           T* bottleneck, T* close) {
  using Vec = typename Simd<T>::Vec;
  using IntVec = typename Simd<Index<T>>::Vec;
  typedef T Loose __attribute__((vector_size(kVectorBytes), may_alias, aligned(sizeof(T))));
  constexpr int64_t kWidth = Simd<T>::kWidth;
  constexpr T kInf = __builtin_inff();
  Vec least = kInf - Vec{};
  Vec count = {};
  int64_t j = 0;
  for (; j + kWidth <= n; j += kWidth) {
    const Vec key = *reinterpret_cast<const Loose*>(keys + j);
    const Vec old = *reinterpret_cast<const Vec*>(best + j);
    const IntVec other = *reinterpret_cast<const IntVec*>(from + j);
    const IntVec shorter = (key < old) | ((key == old) & (other > u));
    const Vec now = shorter ? key : old;
    *reinterpret_cast<Vec*>(best + j) = now;
    *reinterpret_cast<IntVec*>(from + j) = shorter ? u - IntVec{} : other;
    least = ((now < least) & (now >= 0)) ? now : least;
    if constexpr (kContest) {
      const Vec before = *reinterpret_cast<const Vec*>(bottleneck + j);
      const Vec after = ((before >= 0) & (before < height)) ? height - Vec{} : before;
      *reinterpret_cast<Vec*>(bottleneck + j) = after;
      count += ((key <= after * band) & (key > 0)) ? T{1} - Vec{} : Vec{};
    }
  }
  if constexpr (kContest) *reinterpret_cast<Vec*>(close) += count;
  T result = least_lane<T>(least);
  for (; j < n; ++j) {
    if (keys[j] < best[j] || (keys[j] == best[j] && u < from[j])) {
      best[j] = keys[j];
      from[j] = u;
    }
    if (best[j] >= 0 && best[j] < result) result = best[j];
    if constexpr (kContest) {
      if (bottleneck[j] >= 0 && bottleneck[j] < height) bottleneck[j] = height;
      if (keys[j] <= bottleneck[j] * band && keys[j] > 0) ++close[0];
    }
  }
  return result;
}

template <class T>
T relax(const T* keys, int64_t n, Index<T> u, T height, T band, T* best, Index<T>* from,
        T* bottleneck, T* close) {
  if (bottleneck) {
    return relax_of<T, true>(keys, n, u, height, band, best, from, bottleneck, close);
  }
  return relax_of<T, false>(keys, n, u, height, band, best, from, bottleneck, close);
}

// Finds the positions of the vertices whose best is `least`. There is almost always one.
template <class T>
int64_t find_least(const T* best, int64_t n, T least, int32_t* found) {
  constexpr int64_t kWidth = Simd<T>::kWidth;
  const typename Simd<T>::Vec bound = least - typename Simd<T>::Vec{};
  int64_t count = 0;
  int64_t j = 0;
  for (; j + kWidth <= n; j += kWidth) {
    const typename Simd<T>::Vec x = *reinterpret_cast<const typename Simd<T>::Vec*>(best + j);
    uint64_t mask = at_most<T>(x, bound) & at_most<T>(bound, x);
    for (; mask; mask &= mask - 1) found[count++] = static_cast<int32_t>(j + __builtin_ctzll(mask));
  }
  for (; j < n; ++j) {
    if (best[j] == least) found[count++] = static_cast<int32_t>(j);
  }
  return count;
}

// Loads as many numbers as a vector of doubles holds. GCC 12 converts vectors of float in halves,
// which is slower than the instruction that converts them whole.
inline __attribute__((always_inline)) Simd<double>::Vec load_wide(const double* x) {
  return load(x);
}
inline __attribute__((always_inline)) Simd<double>::Vec load_wide(const float* x) {
#if defined(__AVX512F__)
  return (Simd<double>::Vec)_mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(x));
#elif defined(__AVX2__)
  return (Simd<double>::Vec)_mm256_cvtps_pd(_mm_loadu_ps(x));
#else
  Simd<double>::Vec wide;
  for (int64_t l = 0; l < Simd<double>::kWidth; ++l) wide[l] = x[l];
  return wide;
#endif
}

// The sum has sixteen accumulators in double, in vectors of the processor's own width, and no
// fused multiply-add. So these keys, which decide the tree and are reported, have the same bits on
// every instruction set. A key is never NaN, which could not be sorted: a point that has become
// NaN since it was checked is infinitely far away.
template <class T, Term kTerm>
TSLOSS_UNFUSED double refine_of(const T* x, const T* y, int64_t n) {
  TSLOSS_UNFUSED_BODY
  constexpr int kWidth = static_cast<int>(Simd<double>::kWidth);
  constexpr int kVectors = 16 / kWidth;
  Simd<double>::Vec acc[kVectors] = {};
  for (int64_t k = 0; k < n; k += 16) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const Simd<double>::Vec d = load_wide(x + k + v * kWidth) - load_wide(y + k + v * kWidth);
      if constexpr (kTerm == Term::kSquared) {
        const Simd<double>::Vec square = d * d;
        acc[v] += square;
      } else {
        acc[v] += magnitude<double>(d);
      }
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors / 2; ++v) acc[v] += acc[v + kVectors / 2];
  const auto lane = [&](int l)
                        __attribute__((always_inline)) { return acc[l / kWidth][l % kWidth]; };
  const double key =
      ((lane(0) + lane(4)) + (lane(2) + lane(6))) + ((lane(1) + lane(5)) + (lane(3) + lane(7)));
  return key >= 0 ? key : __builtin_inf();
}

template <class T>
double refine(const T* x, const T* y, int64_t n, Term term) {
  return term == Term::kSquared ? refine_of<T, Term::kSquared>(x, y, n)
                                : refine_of<T, Term::kAbsolute>(x, y, n);
}

// 0 * finite = 0 and 0 * inf = 0 * NaN = NaN, so the sum of the products says whether all are
// finite.
template <class T>
bool copy_row(const T* x, int64_t n, T* row) {
  using Vec = typename Simd<T>::Vec;
  constexpr int64_t kWidth = Simd<T>::kWidth;
  constexpr int kVectors = 4;  // chains of additions, each of which would wait for itself
  Vec sum[kVectors] = {};
  const auto copy = [&](int64_t k, Vec& part) __attribute__((always_inline)) {
    const Vec v = load(x + k);
    part += v * T{0};
    *reinterpret_cast<typename Simd<T>::Loose*>(row + k) = v;
  };
  int64_t k = 0;
  for (; k + kVectors * kWidth <= n; k += kVectors * kWidth) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) copy(k + v * kWidth, sum[v]);
  }
  for (; k + kWidth <= n; k += kWidth) copy(k, sum[0]);
  sum[0] += sum[1] + (sum[2] + sum[3]);
  T rest = 0;
  for (; k < n; ++k) {
    const T v = x[k];
    rest += v * T{0};
    row[k] = v;
  }
  for (; k % kLanes != 0; ++k) row[k] = 0;
  for (int64_t l = 0; l < kWidth; ++l) rest += sum[0][l];
  return rest == 0;
}

// The parent vertex and its sum stay in registers while its children are read one after the other.
template <class T>
TSLOSS_UNFUSED void route(const T* const* x, int64_t count, const T* y, const T* weights, int64_t n,
                          T* const* out, T* out_y) {
  TSLOSS_UNFUSED_BODY
  typedef T Loose __attribute__((vector_size(kVectorBytes), may_alias, aligned(sizeof(T))));
  using Vec = typename Simd<T>::Vec;
  constexpr int64_t kWidth = Simd<T>::kWidth;
  constexpr int kVectors = 4;
  int64_t k = 0;
  for (; k + kVectors * kWidth <= n; k += kVectors * kWidth) {
    Vec at[kVectors], sum[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      at[v] = *reinterpret_cast<const Loose*>(y + k + v * kWidth);
      sum[v] = *reinterpret_cast<const Loose*>(out_y + k + v * kWidth);
    }
    for (int64_t c = 0; c < count; ++c) {
      const Vec w = weights[c] - Vec{};
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const Vec part = w * (*reinterpret_cast<const Loose*>(x[c] + k + v * kWidth) - at[v]);
        *reinterpret_cast<Loose*>(out[c] + k + v * kWidth) = part;
        sum[v] -= part;
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) *reinterpret_cast<Loose*>(out_y + k + v * kWidth) = sum[v];
  }
  for (; k < n; ++k) {
    for (int64_t c = 0; c < count; ++c) {
      const T part = weights[c] * (x[c][k] - y[k]);
      out[c][k] = part;
      out_y[k] -= part;
    }
  }
}

}  // namespace
}  // namespace TSLOSS_NAMESPACE
}  // namespace tsloss
