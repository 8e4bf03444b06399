// Rows of activations as int8 with a scale each, and int32 sums back to float32; as `int8.py` defines both.
#pragma once

#ifdef __AVX512F__
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace jaxpaged {

// of 16 numbers those that are there
inline __mmask16 live(int64_t left) { return left >= 16 ? 0xffff : left <= 0 ? 0 : (1u << left) - 1; }

// one row [ins]: its largest magnitude becomes 127
class Quantiser {
 public:
  Quantiser(const float* row, int64_t ins)
      : row_(row), ins_(ins), top_(top_of(row, ins)), factor_(_mm512_set1_ps(127.0f / top_)) {}

  float scale() const { return top_ * (1.0f / 127.0f); }

  // numbers 64 * d and on, zeros behind the last
  void put(int64_t d, void* to) const {
    for (int64_t i = d * 64, n = 0; n < 64; i += 16, n += 16) {
      const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(live(ins_ - i), row_ + i), factor_);
      const __m128i values = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<char*>(to) + n), values);
    }
  }

 private:
  static constexpr float kLeastTop = 1e-30f;  // as `int8.LEAST_TOP`

  // compared as the integers of its bits, among which NaN is above all
  static float top_of(const float* x, int64_t ins) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i top = _mm512_set1_epi32(0), other = top;
    int64_t i = 0;
    for (; i + 32 <= ins; i += 32) {
      top = _mm512_max_epi32(top, _mm512_and_si512(_mm512_loadu_si512(x + i), magnitude));
      other = _mm512_max_epi32(other, _mm512_and_si512(_mm512_loadu_si512(x + i + 16), magnitude));
    }
    for (; i < ins; i += 16) {
      top = _mm512_max_epi32(top, _mm512_and_si512(_mm512_maskz_loadu_epi32(live(ins - i), x + i), magnitude));
    }
    const int32_t bits = _mm512_reduce_max_epi32(_mm512_max_epi32(top, other));
    float found;
    std::memcpy(&found, &bits, sizeof found);
    return found < kLeastTop ? kLeastTop : found;
  }

  const float* row_;
  int64_t ins_;
  float top_;
  __m512 factor_;
};

// the scales of 32 outputs, from `first` on
class OutputScales {
 public:
  OutputScales(const float* scales, int64_t outs, int64_t first)
      : low_(_mm512_maskz_loadu_ps(live(outs - first), scales + first)),
        high_(_mm512_maskz_loadu_ps(live(outs - first - 16), scales + first + 16)) {}

  // int32 sums [32] of one row, plus `more`, become float32 times both scales
  void apply(float row_scale, int32_t more, float* sums) const {
    const __m512 of_row = _mm512_set1_ps(row_scale);
    const __m512i rest = _mm512_set1_epi32(more);
    const __m512 a = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_loadu_si512(sums), rest));
    const __m512 b = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_loadu_si512(sums + 16), rest));
    _mm512_storeu_ps(sums, _mm512_mul_ps(a, _mm512_mul_ps(of_row, low_)));
    _mm512_storeu_ps(sums + 16, _mm512_mul_ps(b, _mm512_mul_ps(of_row, high_)));
  }

 private:
  __m512 low_, high_;
};

}  // namespace jaxpaged

#endif
