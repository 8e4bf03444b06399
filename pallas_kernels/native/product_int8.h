// Products of int8 on the AMX unit, sums in exact int32. A weight [B, A] is held as tiles [B / 32][A / 64][2][16 fours of A]
// [16 of B][4], padded with zeros. Rows are quantised as they are read and laid as tiles [M / 16][A / 64][16][64].
#pragma once

#include "product_amx.h"
#include "quantise.h"

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
    const Quantiser quantiser(from, ins_);
    row_scales_[row] = quantiser.scale();
    for (int64_t d = 0; d < depth_; ++d) quantiser.put(d, at(row, d));
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
    const OutputScales scales(scales_, outs_, panel * kPanel);
    for (int64_t r = 0; r < 16 * RowTiles; ++r) scales.apply(row_scales_[row + r], 0, sums + r * kPanel);
  }

 private:
  static constexpr int64_t kTile = 1024;  // bytes of a tile

  static int64_t depth_of(int64_t ins) { return (ins + 63) / 64; }

  int8_t* at(int64_t row, int64_t d) const { return x_ + (row / 16 * depth_ + d) * kTile + row % 16 * 64; }

  const int8_t* w_;
  const float* scales_;
  int64_t outs_, ins_, depth_;
  int8_t* x_;
  float* row_scales_;
};

#endif

}  // namespace jaxpaged
