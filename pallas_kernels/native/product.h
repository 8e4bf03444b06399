// What the products of packed weights share: rows are packed, then panels of 32 outputs go by blocks of rows. A Product
// holds the packed rows of x [M, A] and a packed weight [B, A]; every sum runs in an order of A alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "attention.h"
#include "parallel.h"
#include "rows.h"
#include "xla/ffi/api/ffi.h"

namespace jaxpaged {

using Floats = xla::ffi::Buffer<xla::ffi::F32>;

// an operand that may be left out as an array without elements
inline const float* given(const Floats& floats) { return floats.element_count() ? floats.typed_data() : nullptr; }

using Count = xla::ffi::Buffer<xla::ffi::S32>;

// how many of the rows are no padding: `count` [1] says it, or it is without elements and they all are
inline int64_t real_rows(const Count& count, int64_t rows) {
  return count.element_count() ? std::clamp<int64_t>(count.typed_data()[0], 0, rows) : rows;
}

constexpr int64_t kPanel = 32;  // outputs of a panel
constexpr int64_t kResident = 1 << 20;  // bytes of packed rows that stay in the second-level cache while panels go by

// all rows, and what is missing to sixteens
template <typename Product>
void pack_rows(xla::ffi::ThreadPool& pool, const Rows& rows, const Product& product) {
  const auto pack_tile = [=](int64_t tile) {
    static thread_local std::vector<float> memory;
    float* row = scratch(memory, rows.size);
    for (int64_t i = tile * 16; i < tile * 16 + 16; ++i) {
      if (i < rows.count) {
        product.pack(i, rows.read(i, row));
      } else {
        product.clear(i);
      }
    }
  };
  const int64_t tiles = (rows.count + 15) / 16;
  if (tiles <= 2) {  // sooner done than shared
    for (int64_t tile = 0; tile < tiles; ++tile) pack_tile(tile);
  } else {
    parallel_for(pool, tiles, pack_tile);
  }
}

// out [M, B] = sums + bias + residual
struct Output {
  float* out;
  const float* bias;      // [B] or null
  const float* residual;  // [M, B] or null
  int64_t outs;

  void operator()(int64_t row, int64_t rows, int64_t panel, const float* sums, int64_t) const {
    const int64_t first = panel * kPanel, count = std::min(kPanel, outs - first);
    if (count == kPanel) {
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = (row + r) * outs + first;
        for (int64_t i = 0; i < kPanel; i += kLanes) {
          f32x16 sum = load<f32x16>(sums + r * kPanel + i);
          if (bias) sum += load<f32x16>(bias + first + i);
          if (residual) sum += load<f32x16>(residual + at + i);
          store(out + at + i, sum);
        }
      }
      return;
    }
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = (row + r) * outs + first + i;
        out[at] = sums[r * kPanel + i] + (bias ? bias[first + i] : 0.0f) + (residual ? residual[at] : 0.0f);
      }
    }
  }

  // padding rows
  void clear(int64_t from, int64_t end) const { std::fill(out + from * outs, out + end * outs, 0.0f); }
};

}  // namespace jaxpaged
