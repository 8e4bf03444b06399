// Products in float32 vectors: x [M, A] times a packed float32 weight [B, A] transposed, each sum one chain of fused
// multiply-adds in the order of A, for every M. The weight is held as panels [B / 32][A][32 of B]: the same bytes, permuted.
#pragma once

#include <array>
#include <utility>

#include "product.h"

namespace jaxpaged::float32 {

#ifdef __AVX512F__
using Vector = f32x16;
constexpr int64_t kMostRows = 14;  // of a block: 28 of 32 registers hold sums
#else
using Vector = f32x8;
constexpr int64_t kMostRows = 6;  // 12 of 16
#endif

constexpr int64_t kSpan = sizeof(Vector) / 4, kVectors = 2, kWidth = kVectors * kSpan;  // outputs of a product
constexpr int64_t kDepth = 128;       // inputs at a time: 16 KB of a panel stay in the first-level cache
constexpr int64_t kLine = 64;

// rows in blocks that differ by one row at most
struct Blocks {
  int64_t rows, count;

  explicit Blocks(int64_t rows) : rows(rows), count((rows + kMostRows - 1) / kMostRows) {}
  int64_t first(int64_t block) const { return rows * block / count; }
  int64_t size(int64_t block) const { return first(block + 1) - first(block); }
};

// row r of a block's `rows` rows as part of [A / kDepth][rows][kDepth], so that what a product reads lies together
inline void pack_row(const float* row, int64_t ins, int64_t r, int64_t rows, float* to) {
  for (int64_t from = 0; from < ins; from += kDepth, to += rows * kDepth) {
    std::copy_n(row + from, std::min(kDepth, ins - from), to + r * kDepth);
  }
}

// what is fetched into the second-level cache meanwhile: `step` bytes for every input
struct Ahead {
  const char* from;
  int64_t step;
};

// R rows of kDepth times `depth` inputs of kWidth outputs, into sums [R][kPanel], which go on unless they are new
template <int64_t R>
void multiply(const float* x, const float* w, int64_t depth, bool fresh, float* sums, Ahead ahead) {
  Vector sum[R][kVectors] = {};
  if (!fresh) {
    for (int64_t r = 0; r < R; ++r) {
      for (int64_t v = 0; v < kVectors; ++v) sum[r][v] = load<Vector>(sums + r * kPanel + v * kSpan);
    }
  }
#pragma GCC unroll 4
  for (int64_t k = 0; k < depth; ++k, w += kPanel, ahead.from += ahead.step) {
    __builtin_prefetch(ahead.from, 0, 2);
    if (ahead.step > kLine) __builtin_prefetch(ahead.from + kLine, 0, 2);
    Vector weights[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) weights[v] = load<Vector>(w + v * kSpan);
#pragma GCC unroll 16
    for (int64_t r = 0; r < R; ++r) {
      const Vector value = x[r * kDepth + k] - Vector{};
      for (int64_t v = 0; v < kVectors; ++v) sum[r][v] += weights[v] * value;
    }
  }
  for (int64_t r = 0; r < R; ++r) {
    for (int64_t v = 0; v < kVectors; ++v) store(sums + r * kPanel + v * kSpan, sum[r][v]);
  }
}

using Multiply = void (*)(const float*, const float*, int64_t, bool, float*, Ahead);

template <size_t... R>
constexpr std::array<Multiply, sizeof...(R)> products(std::index_sequence<R...>) {
  return {multiply<R + 1>...};
}
constexpr auto kProducts = products(std::make_index_sequence<kMostRows>());  // [rows - 1]

struct Problem {
  Rows x;
  const float* w;
  Output output;
  float* packed;  // x in blocks
  Blocks blocks;

  int64_t depths() const { return (x.size + kDepth - 1) / kDepth; }
  float* packed_block(int64_t block) const { return packed + blocks.first(block) * depths() * kDepth; }
};

// blocks [from, end) times one panel. Each block's products fetch their share of the weights two depths on, where the
// panel's end is followed by the next panel. Until the last depth sums stay together: rows of the result may lie whole
// pages apart, which a cache does not like.
inline void multiply_panel(const Problem& p, int64_t panel, int64_t from, int64_t end) {
  const float* w = p.w + panel * p.x.size * kPanel;
  static thread_local std::vector<float> memory;
  float* sums = scratch(memory, (p.blocks.first(end) - p.blocks.first(from)) * kPanel);
  const int64_t step = (kPanel * 4 + end - from - 1) / (end - from);
  for (int64_t d = 0; d < p.depths(); ++d) {
    const int64_t depth = std::min(kDepth, p.x.size - d * kDepth);
    Ahead ahead = {reinterpret_cast<const char*>(w + (d + 2) * kDepth * kPanel), step};
    for (int64_t block = from; block < end; ++block, ahead.from += kDepth * step) {
      const int64_t first = p.blocks.first(block), rows = p.blocks.size(block);
      const float* x = p.packed_block(block) + d * rows * kDepth;
      float* sum = sums + (first - p.blocks.first(from)) * kPanel;
      for (int64_t n = 0; n < kPanel; n += kWidth) {
        kProducts[rows - 1](x, w + d * kDepth * kPanel + n, depth, d == 0, sum + n, ahead);
      }
      if (d + 1 == p.depths()) p.output(first, rows, panel, sum);
    }
  }
}

inline void multiply_all(xla::ffi::ThreadPool& pool, const Rows& rows, const float* w, const Output& output) {
  static thread_local std::vector<float> memory;
  Problem p = {rows, w, output, nullptr, Blocks(rows.count)};
  p.packed = scratch(memory, rows.count * p.depths() * kDepth);
  const auto pack = [p](int64_t block) {
    static thread_local std::vector<float> row_memory;
    float* row = scratch(row_memory, p.x.size);
    for (int64_t r = 0; r < p.blocks.size(block); ++r) {
      pack_row(p.x.read(p.blocks.first(block) + r, row), p.x.size, r, p.blocks.size(block), p.packed_block(block));
    }
  };
  if (rows.count <= 64) {
    for (int64_t block = 0; block < p.blocks.count; ++block) pack(block);
  } else {
    parallel_for(pool, p.blocks.count, pack);
  }
  const int64_t panels = output.outs / kPanel, run = std::max<int64_t>(1, panels / 32), runs = (panels + run - 1) / run;
  const int64_t most = std::max<int64_t>(1, kResident / (kMostRows * p.depths() * kDepth * 4));  // blocks of a chunk
  const int64_t chunks = (p.blocks.count + most - 1) / most;
  parallel_for(pool, chunks * runs, [=](int64_t i) {
    const int64_t chunk = i / runs, from = p.blocks.count * chunk / chunks, end = p.blocks.count * (chunk + 1) / chunks;
    for (int64_t n = i % runs * run; n < std::min(panels, (i % runs + 1) * run); ++n) multiply_panel(p, n, from, end);
  });
}

}  // namespace jaxpaged::float32
