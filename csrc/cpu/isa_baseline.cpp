#include "cpu/kernels.h"

#define TSLOSS_NAMESPACE baseline
namespace {
constexpr int kVectorBytes = 16;
}
#include "cpu/pairwise.inl"
#include "cpu/rows.inl"
