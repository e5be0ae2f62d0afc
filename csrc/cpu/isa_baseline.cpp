#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cpu/kernels.h"

#define TSLOSS_NAMESPACE baseline
namespace {
constexpr int kVectorBytes = 16;
}
// clang-format off: each builds on those before it
#include "cpu/pairwise.inl"
#include "cpu/matrix.inl"
#include "cpu/panels.inl"
#include "cpu/codes.inl"
#include "cpu/rows.inl"
// clang-format on
