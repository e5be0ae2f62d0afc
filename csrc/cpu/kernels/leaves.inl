// Near points of the points of a leaf of a k-d tree, in up to four dimensions. Their keys are
// exact: no multiplication and addition may be fused here, and terms are added in the order of
// `refine`. Included after panels.inl by the file of each instruction set; the same rules hold.

namespace tsloss {
namespace TSLOSS_NAMESPACE {
namespace {

// Lanes of the vectors are the 16 points of the searching leaf, and points of the other leaf come
// one after the other: each is inserted into the lists of all lanes at once, without a branch.
template <int D, Term kTerm, int kCount>
#if defined(__GNUC__) && !defined(__clang__)
__attribute__((optimize("fp-contract=off")))
#endif
uint32_t near_leaf_of(const LeafSearch& search, const double* y, const int64_t* tags,
                      uint32_t among, double radius, double* keys, int64_t* found) {
#if defined(__clang__)
#pragma clang fp contract(off)
#endif
  using Vec = typename Simd<double>::Vec;
  using IntVec = typename Simd<int64_t>::Vec;
  constexpr int kWidth = static_cast<int>(Simd<double>::kWidth);
  constexpr int kVectors = static_cast<int>(kLeafPoints) / kWidth;
  const auto measure = [](const Vec* d) __attribute__((always_inline)) {
    Vec t[D];
#pragma GCC unroll 4
    for (int k = 0; k < D; ++k)
      t[k] = kTerm == Term::kSquared ? d[k] * d[k] : d[k] < 0 ? -d[k] : d[k];
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
      if ((hits >> (v * kWidth) & ((1u << kWidth) - 1)) == 0) continue;
      IntVec hit;
#pragma GCC unroll 8
      for (int l = 0; l < kWidth; ++l) hit[l] = int64_t{1} << (v * kWidth + l);
      hit = (hit & int64_t(hits)) != 0;
      Vec now = key[v];
      IntVec tag = tags[other] - IntVec{};
#pragma GCC unroll 8
      for (int k = 0; k < kCount; ++k) {
        Vec& old = reinterpret_cast<Vec*>(keys + k * kLeafPoints)[v];
        IntVec& old_tag = reinterpret_cast<IntVec*>(found + k * kLeafPoints)[v];
        const IntVec before = ((now < old) | ((now == old) & (tag < old_tag))) & hit;
        const Vec later = before ? old : now;
        const IntVec later_tag = before ? old_tag : tag;
        old = before ? now : old;
        old_tag = before ? tag : old_tag;
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

const LeafKernels kLeaves = {near_leaf<kNear>, near_leaf<1>};

}  // namespace TSLOSS_NAMESPACE
}  // namespace tsloss
