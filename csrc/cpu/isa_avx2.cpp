#include "cpu/kernels.h"

#define TSLOSS_NAMESPACE avx2
namespace {
constexpr int kVectorBytes = 32;
}
#include "cpu/pairwise.inl"
#include "cpu/rows.inl"
