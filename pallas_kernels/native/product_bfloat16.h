// Products of bfloat16 on the AMX unit. A weight [B, A] is held as tiles [B / 32][A / 32][2][16 pairs of A][16 of B][2]:
// the same bytes, permuted. Rows are rounded to bfloat16 and laid as tiles [M / 16][A / 32][16][32].
#pragma once

#include "product_amx.h"

namespace jaxpaged {

#ifndef JAXPAGED_AMX

using ProductBfloat16 = void;

#else

class ProductBfloat16 {
 public:
  using Unit = Tiles;
  static constexpr bool kQuantises = false;

  static bool fits(int64_t outs, int64_t ins, int64_t bytes, int64_t scales) {
    return amx_granted() && outs % kPanel == 0 && ins % 32 == 0 && bytes == outs * ins * 2 && scales == 0;
  }

  // bytes that packed rows take
  static int64_t space(int64_t rows, int64_t ins) { return (rows + 15) / 16 * 16 * ins * 2; }

  ProductBfloat16(const void* w, const float*, int64_t, int64_t ins, int64_t, void* memory)
      : w_(static_cast<const uint16_t*>(w)), depth_(ins / 32), x_(static_cast<uint16_t*>(memory)) {}

  int64_t row_bytes() const { return depth_ * 64; }

  void pack(int64_t row, const float* from) const {
    for (int64_t d = 0; d < depth_; ++d, from += 32) {
      store_bf16(at(row, d), _mm512_loadu_ps(from), _mm512_loadu_ps(from + 16));
    }
  }

  // 32 inputs of a row, those from 32 * d on
  void put(int64_t row, int64_t d, f32x16 low, f32x16 high) const { store_bf16(at(row, d), (__m512)low, (__m512)high); }

  void clear(int64_t row) const {
    for (int64_t d = 0; d < depth_; ++d) _mm512_storeu_si512(at(row, d), _mm512_setzero_si512());
  }

  template <int C, int A, int B>
  static void dot() {
    tile_dot<C, A, B>();
  }

  // Tiles of 16 rows, from `row` on, times a panel: sums f32[16 * Tiles][32]. cold: the panel is not in any cache
  template <int RowTiles>
  void multiply(int64_t row, int64_t panel, bool cold, float* sums) const {
    multiply_tiles<RowTiles, ProductBfloat16>(reinterpret_cast<const char*>(at(row, 0)),
                                        reinterpret_cast<const char*>(w_) + panel * depth_ * 2 * kTileBytes, depth_, cold, sums);
  }

 private:
  static constexpr int64_t kTile = 512;  // numbers of a tile

  uint16_t* at(int64_t row, int64_t d) const { return x_ + (row / 16 * depth_ + d) * kTile + row % 16 * 32; }

  const uint16_t* w_;
  int64_t depth_;
  uint16_t* x_;
};

#endif

}  // namespace jaxpaged
