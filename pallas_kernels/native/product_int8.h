// Products of int8 on the AMX unit, sums in exact int32. A weight [B, A] is held as tiles [B / 32][A / 64][2][16 fours of A]
// [16 of B][4], padded with zeros. Rows are quantised as they are read and laid as tiles [M / 16][A / 64][16][64].
#pragma once

#include "product_amx.h"

#if defined(JAXPAGED_AMX) && defined(__AMX_INT8__)
#define JAXPAGED_INT8 1
#endif

namespace jaxpaged {

#ifndef JAXPAGED_INT8

using ProductInt8 = void;

#else

class ProductInt8 {
 public:
  using Unit = Tiles;
  static constexpr bool kQuantises = true;

  static bool fits(int64_t outs, int64_t ins, int64_t bytes, int64_t scales) {
    return amx_granted() && bytes == depth_of(ins) * 64 * ((outs + 31) / 32 * 32) && scales == outs;
  }

  // bytes that packed rows and their scales take
  static int64_t space(int64_t rows, int64_t ins) { return (rows + 15) / 16 * 16 * (depth_of(ins) * 64 + 4); }

  ProductInt8(const void* w, const float* scales, int64_t outs, int64_t ins, int64_t rows, void* memory)
      : w_(static_cast<const int8_t*>(w)),
        scales_(scales),
        outs_(outs),
        ins_(ins),
        depth_(depth_of(ins)),
        x_(static_cast<int8_t*>(memory)),
        row_scales_(reinterpret_cast<float*>(x_ + (rows + 15) / 16 * 16 * depth_ * 64)) {}

  int64_t row_bytes() const { return depth_ * 64; }

  void pack(int64_t row, const float* from) const {
    const float top = top_of(from);
    row_scales_[row] = top * (1.0f / 127.0f);
    const __m512 factor = _mm512_set1_ps(127.0f / top);
    for (int64_t d = 0; d < depth_; ++d) {
      for (int64_t i = d * 64, n = 0; n < 64; i += 16, n += 16) {
        const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(live(ins_ - i), from + i), factor);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(at(row, d) + n), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled)));
      }
    }
  }

  void clear(int64_t row) const {
    row_scales_[row] = 0.0f;
    for (int64_t d = 0; d < depth_; ++d) _mm512_storeu_si512(at(row, d), _mm512_setzero_si512());
  }

  template <int C, int A, int B>
  static void dot() {
    tile_dot_int8<C, A, B>();
  }

  // Tiles of 16 rows, from `row` on, times a panel: sums f32[16 * Tiles][32]. cold: the panel is not in any cache
  template <int RowTiles>
  void multiply(int64_t row, int64_t panel, bool cold, float* sums) const {
    multiply_tiles<RowTiles, ProductInt8>(reinterpret_cast<const char*>(at(row, 0)),
                                        reinterpret_cast<const char*>(w_) + panel * depth_ * 2 * kTileBytes, depth_, cold, sums);
    scale<16 * RowTiles>(row, panel, sums);
  }

 private:
  static constexpr int64_t kTile = 1024;      // bytes of a tile
  static constexpr float kLeastTop = 1e-30f;  // as `int8.LEAST_TOP`

  static int64_t depth_of(int64_t ins) { return (ins + 63) / 64; }

  static __mmask16 live(int64_t left) { return left >= 16 ? 0xffff : left <= 0 ? 0 : (1u << left) - 1; }

  int8_t* at(int64_t row, int64_t d) const { return x_ + (row / 16 * depth_ + d) * kTile + row % 16 * 64; }

  // the largest magnitude of a row; compared as the integers of its bits, among which NaN is above all
  float top_of(const float* x) const {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i top = _mm512_set1_epi32(0), other = top;
    int64_t i = 0;
    for (; i + 32 <= ins_; i += 32) {
      top = _mm512_max_epi32(top, _mm512_and_si512(_mm512_loadu_si512(x + i), magnitude));
      other = _mm512_max_epi32(other, _mm512_and_si512(_mm512_loadu_si512(x + i + 16), magnitude));
    }
    for (; i < ins_; i += 16) {
      top = _mm512_max_epi32(top, _mm512_and_si512(_mm512_maskz_loadu_epi32(live(ins_ - i), x + i), magnitude));
    }
    const int32_t bits = _mm512_reduce_max_epi32(_mm512_max_epi32(top, other));
    float found;
    std::memcpy(&found, &bits, sizeof found);
    return found < kLeastTop ? kLeastTop : found;
  }

  // int32 sums as float32, times the scales of their row and output
  template <int Rows>
  void scale(int64_t row, int64_t panel, float* sums) const {
    const int64_t first = panel * kPanel;
    const __m512 low = _mm512_maskz_loadu_ps(live(outs_ - first), scales_ + first);
    const __m512 high = _mm512_maskz_loadu_ps(live(outs_ - first - 16), scales_ + first + 16);
    for (int64_t r = 0; r < Rows; ++r) {
      float* sum = sums + r * kPanel;
      const __m512 of_row = _mm512_set1_ps(row_scales_[row + r]);
      const __m512 a = _mm512_cvtepi32_ps(_mm512_load_si512(sum)), b = _mm512_cvtepi32_ps(_mm512_load_si512(sum + 16));
      _mm512_store_ps(sum, _mm512_mul_ps(a, _mm512_mul_ps(of_row, low)));
      _mm512_store_ps(sum + 16, _mm512_mul_ps(b, _mm512_mul_ps(of_row, high)));
    }
  }

  const int8_t* w_;
  const float* scales_;
  int64_t outs_, ins_, depth_;
  int8_t* x_;
  float* row_scales_;
};

#endif

}  // namespace jaxpaged
