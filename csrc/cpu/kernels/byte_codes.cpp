// Codes of 8 bits for processors with AVX-512 VNNI: `vpdpbusd` multiplies and adds four of them in
// each of 16 lanes, four times the multiply-adds of float an instruction.
#include <immintrin.h>

#include "cpu/kernels/kernels.h"

#define TSLOSS_NAMESPACE avx512vnni
namespace {
constexpr int kVectorBytes = 64;
}
// clang-format off: each builds on those before it
#include "cpu/kernels/pairwise.inl"
#include "cpu/kernels/matrix.inl"
#include "cpu/kernels/panels.inl"
#include "cpu/kernels/codes.inl"
// clang-format on

namespace tsloss {
namespace avx512vnni {
namespace {

// The instruction wants one factor unsigned, so columns hold code + 128, and `start` takes the 128
// times the sum of the row's codes away again. Inline assembly, because gcc 12 spills accumulators
// that it could keep: 24 accumulators, 3 columns and a row fill 28 of the 32 registers.
__attribute__((noinline)) void dot_bytes(const void* rows, const void* columns, int64_t groups,
                                         const int32_t* start, int32_t* dots) {
  const char* a = static_cast<const char*>(rows);
  const char* b0 = static_cast<const char*>(columns);
  const char* b1 = b0 + groups * 64;
  const char* b2 = b1 + groups * 64;
  __m512i acc[8][3];
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) acc[r][0] = acc[r][1] = acc[r][2] = _mm512_set1_epi32(start[r]);
  for (int64_t g = 0; g < groups; ++g) {
    const __m512i y0 = _mm512_load_si512(b0 + g * 64);
    const __m512i y1 = _mm512_load_si512(b1 + g * 64);
    const __m512i y2 = _mm512_load_si512(b2 + g * 64);
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
      int32_t four;
      __builtin_memcpy(&four, a + g * 64 + 4 * r, 4);
      const __m512i x = _mm512_set1_epi32(four);
      asm("vpdpbusd %1, %2, %0" : "+v"(acc[r][0]) : "v"(x), "v"(y0));
      asm("vpdpbusd %1, %2, %0" : "+v"(acc[r][1]) : "v"(x), "v"(y1));
      asm("vpdpbusd %1, %2, %0" : "+v"(acc[r][2]) : "v"(x), "v"(y2));
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < 3; ++v) _mm512_store_si512(dots + r * kTileColumns + v * 16, acc[r][v]);
  }
}

Coder::Encoded encode_bytes(const float* row, int64_t n, int largest, int64_t lane,
                            void* panel_rows, void* panel_columns) {
  int8_t* signed_panel = static_cast<int8_t*>(panel_rows) + 4 * lane;
  int8_t* unsigned_panel = static_cast<int8_t*>(panel_columns) + 4 * lane;
  return encode_row(row, n, largest, [&](int64_t k, Int code) {
    alignas(16) uint32_t four[4];
    _mm_store_si128(reinterpret_cast<__m128i*>(four),
                    _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)code));
#pragma GCC unroll 4
    for (int z = 0; z < 4; ++z) {
      const uint32_t plus_128 = four[z] ^ 0x80808080u;
      __builtin_memcpy(signed_panel + (k / 4 + z) * 64, &four[z], 4);
      __builtin_memcpy(unsigned_panel + (k / 4 + z) * 64, &plus_128, 4);
    }
  });
}

}  // namespace

const Coder kByteCoder = {4, 1, true, encode_bytes, dot_bytes};

}  // namespace avx512vnni
}  // namespace tsloss
