// What the products of packed weights share: rows are packed as tiles, then panels of 32 outputs go by blocks of 32 rows.
// A Product holds the packed rows of x [M, A] and a packed weight [B, A]; every sum runs in an order of A alone.
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

constexpr int64_t kPanel = 32;  // outputs of a panel
constexpr int64_t kBlock = 32;  // rows of a block: two tiles, one below the other
constexpr int64_t kSums = kBlock * kPanel;
constexpr int64_t kResident = 1 << 20;  // bytes of packed rows that stay in the second-level cache while panels go by
constexpr int64_t kAheadBytes = 8192;   // of a weight, that are asked for before they are multiplied

// all rows, and what is missing to whole tiles as zeros
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

// store(row, rows, panel, sums) for every block: sums f32[Weights][32][32] of the panels `panel`, `panel + panels`, ...
template <int Weights, typename Product, typename Store>
void multiply_rows(xla::ffi::ThreadPool& pool, const Product& product, int64_t rows, int64_t panels, Store store) {
  if (rows == 0) return;
  const int64_t most = std::max<int64_t>(64, kResident / product.row_bytes());
  const int64_t chunks = (rows + most - 1) / most;
  const int64_t chunk = ((rows + chunks - 1) / chunks + kBlock - 1) / kBlock * kBlock;
  const int64_t some = panels >= 64 && rows <= 64 ? 2 : 1, jobs = (panels + some - 1) / some;
  parallel_for(pool, chunks * jobs, [=](int64_t job) {
    const typename Product::Unit unit;
    alignas(64) float sums[Weights * kSums];
    const int64_t from = job / jobs * chunk, end = std::min(rows, from + chunk), first = job % jobs * some;
    for (int64_t panel = first; panel < std::min(panels, first + some); ++panel) {
      for (int64_t row = from; row < end; row += kBlock) {
        for (int weight = 0; weight < Weights; ++weight) {
          const int64_t which = panel + weight * panels;
          if (end - row > 16) {
            product.template multiply<2>(row, which, row == from, sums + weight * kSums);
          } else {
            product.template multiply<1>(row, which, row == from, sums + weight * kSums);
          }
        }
        store(row, std::min(end - row, kBlock), panel, sums);
      }
    }
  });
}

// asks for the cache lines of `bytes` bytes; Write: to be written
template <bool Write>
inline void fetch(const void* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(from) + i, Write, Write ? 3 : 2);
}

// sums of two tiles side by side, or four; the lines of `sums` are asked for in the last steps, as operands push them out
constexpr int64_t kLateSteps = 16;

template <int Tiles>
inline void fetch_sums(float* sums, int64_t steps_left) {
  constexpr int64_t kFloats = Tiles * 256 / kLateSteps;
  if (steps_left <= kLateSteps) fetch<true>(sums + (kLateSteps - steps_left) * kFloats, kFloats * 4);
}

// out [M, B] = sums + bias + residual
struct Output {
  float* out;
  const float* bias;      // [B] or null
  const float* residual;  // [M, B] or null
  int64_t outs;

  void operator()(int64_t row, int64_t rows, int64_t panel, const float* sums) const {
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
};

}  // namespace jaxpaged
