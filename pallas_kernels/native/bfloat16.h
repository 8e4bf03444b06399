// Numbers as the AVX512-BF16 unit takes them.
#pragma once

#ifdef __AVX512BF16__
#include <immintrin.h>

#include <cstdint>

namespace jaxpaged {

// 32 float32 as bfloat16: to nearest, ties to even, subnormal numbers to zero
inline void store_bf16(void* to, __m512 low, __m512 high) {
  _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

}  // namespace jaxpaged

#endif
