// Near points of the points of a leaf of a k-d tree, in up to four dimensions. Their keys are
// exact: no multiplication and addition may be fused here, and terms are added in the order of
// `refine`. Included after panels.inl by the file of each instruction set; the same rules hold.

namespace tsloss {
namespace TSLOSS_NAMESPACE {
namespace {

// For each lane whether (key, tag) comes before (old, old_tag), and lanes of `a` where that is so,
// elsewhere of `b`. GCC 12 takes masks of AVX-512 apart bit by bit unless it is told how to join
// them.
#if defined(__AVX512F__)
typedef __mmask8 LeafMask;
typedef Simd<double>::Vec LeafKeys;
typedef Simd<int64_t>::Vec LeafTags;

inline __attribute__((always_inline)) LeafMask in_order(LeafKeys key, LeafTags tag, LeafKeys old,
                                                        LeafTags old_tag, uint32_t lanes) {
  const LeafMask tied =
      _mm512_mask_cmp_pd_mask(static_cast<LeafMask>(lanes), (__m512d)key, (__m512d)old, _CMP_EQ_OQ);
  return _mm512_mask_cmp_pd_mask(static_cast<LeafMask>(lanes), (__m512d)key, (__m512d)old,
                                 _CMP_LT_OQ) |
         _mm512_mask_cmplt_epi64_mask(tied, (__m512i)tag, (__m512i)old_tag);
}
inline __attribute__((always_inline)) LeafKeys choose(LeafMask mask, LeafKeys a, LeafKeys b) {
  return (LeafKeys)_mm512_mask_blend_pd(mask, (__m512d)b, (__m512d)a);
}
inline __attribute__((always_inline)) LeafTags choose(LeafMask mask, LeafTags a, LeafTags b) {
  return (LeafTags)_mm512_mask_blend_epi64(mask, (__m512i)b, (__m512i)a);
}
#else
typedef Simd<double>::Vec LeafKeys;
typedef Simd<int64_t>::Vec LeafTags;

inline __attribute__((always_inline)) LeafTags in_order(LeafKeys key, LeafTags tag, LeafKeys old,
                                                        LeafTags old_tag, uint32_t lanes) {
  LeafTags bit;
  for (int l = 0; l < Simd<double>::kWidth; ++l) bit[l] = int64_t{1} << l;
  return ((key < old) | ((key == old) & (tag < old_tag))) & ((bit & int64_t(lanes)) != 0);
}
inline __attribute__((always_inline)) LeafKeys choose(LeafTags mask, LeafKeys a, LeafKeys b) {
  return mask ? a : b;
}
inline __attribute__((always_inline)) LeafTags choose(LeafTags mask, LeafTags a, LeafTags b) {
  return mask ? a : b;
}
#endif

// Lanes of the vectors are the 16 points of the searching leaf, and points of the other leaf come
// one after the other: each is inserted into the lists of all lanes at once, without a branch.
template <int D, Term kTerm, int kCount>
TSLOSS_UNFUSED uint32_t near_leaf_of(const LeafSearch& search, const double* y, const int64_t* tags,
                                     uint32_t among, double radius, double* keys, int64_t* found) {
  TSLOSS_UNFUSED_BODY
  using Vec = typename Simd<double>::Vec;
  using IntVec = typename Simd<int64_t>::Vec;
  constexpr int kWidth = static_cast<int>(Simd<double>::kWidth);
  constexpr int kVectors = static_cast<int>(kLeafPoints) / kWidth;
  const auto measure = [](const Vec* d) __attribute__((always_inline)) {
    Vec t[D];
#pragma GCC unroll 4
    for (int k = 0; k < D; ++k) {
      t[k] = kTerm == Term::kSquared ? d[k] * d[k] : magnitude<double>(d[k]);
    }
    if constexpr (D == 1) return t[0];
    if constexpr (D == 2) return t[0] + t[1];
    if constexpr (D == 3) return (t[0] + t[2]) + t[1];
    if constexpr (D == 4) return (t[0] + t[2]) + (t[1] + t[3]);
  };
  const Vec zero = {};

  // The points of the other leaf that are within the radius of the box of the searching ones.
  uint32_t close = 0;
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    Vec gap[D];
#pragma GCC unroll 4
    for (int k = 0; k < D; ++k) {
      const Vec at = reinterpret_cast<const Vec*>(y + k * kLeafPoints)[v];
      const Vec below = search.box[k] - at, above = at - search.box[D + k];
      const Vec outside = below > above ? below : above;
      gap[k] = outside > zero ? outside : zero;
    }
    close |= uint32_t(at_most<double>(measure(gap), radius - zero)) << (v * kWidth);
  }
  close &= among;

  uint32_t changed = 0;
  for (; close; close &= close - 1) {
    const int other = __builtin_ctz(close);
    const uint32_t lanes = search.own ? search.lanes & ~(uint32_t{1} << other) : search.lanes;
    Vec key[kVectors];
    uint32_t hits = 0;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      Vec d[D];
#pragma GCC unroll 4
      for (int k = 0; k < D; ++k) {
        d[k] = reinterpret_cast<const Vec*>(search.x + k * kLeafPoints)[v] -
               y[k * kLeafPoints + other];
      }
      key[v] = measure(d);
      const Vec last = reinterpret_cast<const Vec*>(keys + (kCount - 1) * kLeafPoints)[v];
      hits |= uint32_t(at_most<double>(key[v], last)) << (v * kWidth);
    }
    hits &= lanes;
    if (hits == 0) continue;
    changed |= hits;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const uint32_t hit = hits >> (v * kWidth) & ((1u << kWidth) - 1);
      if (hit == 0) continue;
      Vec now = key[v];
      IntVec tag = tags[other] - IntVec{};
#pragma GCC unroll 8
      for (int k = 0; k < kCount; ++k) {
        Vec& old = reinterpret_cast<Vec*>(keys + k * kLeafPoints)[v];
        IntVec& old_tag = reinterpret_cast<IntVec*>(found + k * kLeafPoints)[v];
        const auto before = in_order(now, tag, old, old_tag, hit);
        const Vec later = choose(before, old, now);
        const IntVec later_tag = choose(before, old_tag, tag);
        old = choose(before, now, old);
        old_tag = choose(before, tag, old_tag);
        now = later;
        tag = later_tag;
      }
    }
  }
  return changed;
}

template <int kCount>
uint32_t near_leaf(const LeafSearch& search, const double* y, const int64_t* tags, uint32_t among,
                   double radius, double* keys, int64_t* found) {
  constexpr Term kSquared = Term::kSquared, kAbsolute = Term::kAbsolute;
  const bool squared = search.term == Term::kSquared;
  const auto with = [&](auto kernel) __attribute__((always_inline)) {
    return kernel(search, y, tags, among, radius, keys, found);
  };
  switch (search.dim) {
    case 1:
      return with(squared ? near_leaf_of<1, kSquared, kCount> : near_leaf_of<1, kAbsolute, kCount>);
    case 2:
      return with(squared ? near_leaf_of<2, kSquared, kCount> : near_leaf_of<2, kAbsolute, kCount>);
    case 3:
      return with(squared ? near_leaf_of<3, kSquared, kCount> : near_leaf_of<3, kAbsolute, kCount>);
    default:
      return with(squared ? near_leaf_of<4, kSquared, kCount> : near_leaf_of<4, kAbsolute, kCount>);
  }
}

}  // namespace

}  // namespace TSLOSS_NAMESPACE
}  // namespace tsloss
