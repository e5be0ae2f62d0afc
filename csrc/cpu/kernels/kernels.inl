// The kernels of one instruction set, and the tables that hold them. The build compiles this file
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
