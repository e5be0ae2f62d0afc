// The kernels of one instruction set, and the table that holds them. The build compiles this file
// once per instruction set, with TSLOSS_NAMESPACE for its name and TSLOSS_VECTOR_BYTES for the
// width of its vectors.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cpu/kernels/kernels.h"

namespace {
constexpr int kVectorBytes = TSLOSS_VECTOR_BYTES;
}
// clang-format off: each builds on those before it
#include "cpu/kernels/pairwise.inl"
#include "cpu/kernels/matrix.inl"
#include "cpu/kernels/panels.inl"
#include "cpu/kernels/codes.inl"
#include "cpu/kernels/rows.inl"
#include "cpu/kernels/leaves.inl"
// clang-format on

namespace tsloss {
namespace TSLOSS_NAMESPACE {
namespace {

template <class T>
constexpr Kernels<T> table() {
  return {block<T>,    pairs<T>, rectangle<T>,  pack<T>,          panel_tile<T>, mirror<T>,
          hits<T>,     relax<T>, find_least<T>, mirrored<T>,      hash_row<T>,   refine<T>,
          copy_row<T>, route<T>, rounding<T>,   panel_rounding<T>};
}

}  // namespace

const KernelSet kKernels = {
    table<float>(), table<double>(), kFilter, {near_leaf<kNear>, near_leaf<1>}, kCoder};

}  // namespace TSLOSS_NAMESPACE
}  // namespace tsloss
