#include "cpu/kernels.h"

#define TSLOSS_NAMESPACE avx512
namespace {
constexpr int kVectorBytes = 64;
}
#include "cpu/pairwise.inl"
#include "cpu/rows.inl"
