// Products in vectors: x [M, A] times a packed weight [B, A] transposed. Both sides are held as words of 32 bits, one
// float32, two bfloat16 or four int8 of A; each sum is one chain over the words in their order, for every M. A Kind
// (vector_kinds.h) says what a word is, how panels hold them and what multiplies them.
#pragma once

#include <array>
#include <utility>

#include "product.h"

namespace jaxpaged::vector {

constexpr int64_t kDepth = 128;  // words at a time: 16 KB of a panel stay in the first-level cache
constexpr int64_t kTile = 16;    // words of a tile, where panels are tiles
constexpr int64_t kLine = 64;

// rows in blocks of `most` at most, that differ by one row
struct Blocks {
  int64_t rows, count;

  Blocks(int64_t rows, int64_t most) : rows(rows), count((rows + most - 1) / most) {}
  int64_t first(int64_t block) const { return rows * block / count; }
  int64_t size(int64_t block) const { return first(block + 1) - first(block); }
  int64_t of(int64_t row) const { return ((row + 1) * count - 1) / rows; }
};

// what is fetched into the second-level cache meanwhile: `step` bytes for every word
struct Ahead {
  const char* from;
  int64_t step;
};

// R rows of kDepth times `depth` words of Kind's two vectors of outputs, into sums [R][kPanel], which go on unless they
// are new
template <typename Kind, int64_t R>
void multiply(const uint32_t* x, const uint32_t* w, int64_t depth, bool fresh, float* sums, Ahead ahead) {
  using Sum = typename Kind::Sum;
  constexpr int64_t kSpan = sizeof(Sum) / 4;
  Sum sum[R][2];
#pragma GCC unroll 16
  for (int64_t r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int64_t v = 0; v < 2; ++v) sum[r][v] = fresh ? Sum{} : load_as<Sum>(sums + r * kPanel + v * kSpan);
  }
  const int64_t tile = Kind::kTiled ? kTile : depth;
  for (const uint32_t* end = x + depth; x < end; x += tile, w += tile * kPanel) {
    for (int64_t k = 0; k < tile; ++k, ahead.from += ahead.step) {
      __builtin_prefetch(ahead.from, 0, 2);
      if (ahead.step > kLine) __builtin_prefetch(ahead.from + kLine, 0, 2);
      typename Kind::Weights weights[2];
#pragma GCC unroll 2
      for (int64_t v = 0; v < 2; ++v) weights[v] = Kind::weights(w + Kind::place(k, v));
#pragma GCC unroll 16
      for (int64_t r = 0; r < R; ++r) {
        const auto word = Kind::broadcast(x[r * kDepth + k]);
#pragma GCC unroll 2
        for (int64_t v = 0; v < 2; ++v) sum[r][v] = Kind::add(sum[r][v], weights[v], word);
      }
    }
  }
#pragma GCC unroll 16
  for (int64_t r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int64_t v = 0; v < 2; ++v) std::memcpy(sums + r * kPanel + v * kSpan, &sum[r][v], sizeof(Sum));
  }
}

using Multiply = void (*)(const uint32_t*, const uint32_t*, int64_t, bool, float*, Ahead);

template <typename Kind, size_t... R>
constexpr std::array<Multiply, sizeof...(R)> products(std::index_sequence<R...>) {
  return {multiply<Kind, R + 1>...};
}

// packed rows [blocks][depths][rows of the block][kDepth] and a weight. `memory`: space() bytes
template <typename Kind>
class Product {
 public:
  static constexpr bool kQuantises = Kind::kQuantises;

  static bool fits(int64_t outs, int64_t ins, int64_t bytes, int64_t scales) {
    return Kind::fits(outs, ins, scales) && bytes == (outs + kPanel - 1) / kPanel * kPanel * Kind::words(ins) * 4;
  }

  static int64_t space(int64_t rows, int64_t ins) { return rows * (depths_of(ins) * kDepth + Kind::kWordsOfRow) * 4; }

  Product(const void* w, const float* scales, int64_t outs, int64_t ins, int64_t rows, void* memory)
      : w_(static_cast<const uint32_t*>(w)),
        words_(Kind::words(ins)),
        depths_(depths_of(ins)),
        span_((words_ + depths_ * kTile - 1) / (depths_ * kTile) * kTile),
        blocks_(rows, Kind::kMostRows),
        x_(static_cast<uint32_t*>(memory)),
        kind_(scales, outs, ins, x_ + rows * depths_ * kDepth) {}

  void pack(int64_t row, const float* from) const {
    const auto words = kind_.words_of(row, from);
    for (int64_t word = 0; word < words_; word += kTile) words.put(word, at(row, word));
  }

  // 32 inputs of a row, those from 32 * d on
  void put(int64_t row, int64_t d, f32x16 low, f32x16 high) const {
    kind_.put(32 * d, low, high, [this, row](int64_t word) { return at(row, word); });
  }

  void clear(int64_t) const {}

  const Blocks& blocks() const { return blocks_; }
  int64_t depths() const { return depths_; }
  int64_t row_bytes() const { return depths_ * kDepth * 4; }

  // weights of depth d of a panel; behind the last come those of the next panel
  const uint32_t* weights(int64_t panel, int64_t d) const { return w_ + (panel * words_ + d * span_) * kPanel; }

  // the block's rows times depth d of a panel, into sums [rows][kPanel], which hold those of the depths before
  void multiply(int64_t block, int64_t panel, int64_t d, float* sums, Ahead ahead) const {
    static constexpr auto kProducts = products<Kind>(std::make_index_sequence<Kind::kMostRows>());  // [rows - 1]
    const int64_t rows = blocks_.size(block), depth = std::min(span_, words_ - d * span_);
    const uint32_t* x = x_ + (blocks_.first(block) * depths_ + d * rows) * kDepth;
    for (int64_t n = 0; n < kPanel; n += Kind::kWidth) {
      kProducts[rows - 1](x, weights(panel, d) + n, depth, d == 0, sums + n, ahead);
    }
    if (d + 1 == depths_) kind_.finish(blocks_.first(block), rows, panel, sums);
  }

 private:
  static int64_t depths_of(int64_t ins) { return (Kind::words(ins) + kDepth - 1) / kDepth; }

  uint32_t* at(int64_t row, int64_t word) const {
    const int64_t block = blocks_.of(row), first = blocks_.first(block), d = word / span_;
    return x_ + (first * depths_ + d * blocks_.size(block) + row - first) * kDepth + word % span_;
  }

  const uint32_t* w_;
  int64_t words_, depths_, span_;
  Blocks blocks_;
  uint32_t* x_;
  Kind kind_;
};

}  // namespace jaxpaged::vector

namespace jaxpaged {

// store(row, rows, panel, sums, apart) for every block: sums f32[rows][32] of the panels `panel`, `panel + panels`, ...,
// each `apart` numbers behind the one before. A block's products fetch their share of the weights two depths on. Until
// the last depth sums stay together: rows of the result may lie whole pages apart, which a cache does not like.
template <int Weights, typename Kind, typename Store>
void multiply_rows(xla::ffi::ThreadPool& pool, const vector::Product<Kind>& product, int64_t rows, int64_t panels,
                   Store store) {
  if (rows == 0) return;
  const int64_t blocks = product.blocks().count, depths = product.depths();
  const int64_t run = std::max<int64_t>(1, panels / 32), runs = (panels + run - 1) / run;
  const int64_t most = std::max<int64_t>(1, kResident / (Kind::kMostRows * product.row_bytes()));  // blocks of a chunk
  const int64_t chunks = (blocks + most - 1) / most;
  const auto one_panel = [=](int64_t panel, int64_t from, int64_t end) {
    const int64_t first = product.blocks().first(from), apart = (product.blocks().first(end) - first) * kPanel;
    const int64_t step = (kPanel * 4 + end - from - 1) / (end - from);
    static thread_local std::vector<float> memory;
    float* all = scratch(memory, Weights * apart);
    for (int64_t i = 0; i < Weights * depths; ++i) {
      const int64_t weight = i / depths, d = i % depths, next = i + 2;
      const uint32_t* soon = next < Weights * depths ? product.weights(panel + next / depths * panels, next % depths)
                                                     : product.weights(panel + 1, (next - Weights * depths) % depths);
      vector::Ahead ahead = {reinterpret_cast<const char*>(soon), step};
      for (int64_t block = from; block < end; ++block, ahead.from += vector::kDepth * step) {
        float* sums = all + (product.blocks().first(block) - first) * kPanel;
        product.multiply(block, panel + weight * panels, d, sums + weight * apart, ahead);
        if (i + 1 < Weights * depths) continue;
        store(product.blocks().first(block), product.blocks().size(block), panel, sums, apart);
      }
    }
  };
  parallel_for(pool, chunks * runs, [=](int64_t i) {
    const int64_t chunk = i / runs, from = blocks * chunk / chunks, end = blocks * (chunk + 1) / chunks;
    for (int64_t n = i % runs * run; n < std::min(panels, (i % runs + 1) * run); ++n) one_panel(n, from, end);
  });
}

}  // namespace jaxpaged
