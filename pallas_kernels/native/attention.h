// What the two ways of attending share: the problem, the keys a row sees, softmax in pieces with integer tops.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "rotate.h"
#include "vectors.h"

namespace jaxpaged {

// scores are in units of log2 and bounded, so that exp2_below takes them; masked ones weigh nothing beside any other
constexpr float kBound = 2097152.0f;   // 2**21
constexpr float kMasked = -4000000.0f;  // above -2**22
constexpr int kLowest = -(1 << 22);     // the top of a piece that saw no key
constexpr float kLog2E = 1.4426950408889634f;

template <typename S>
struct Attention {
  int64_t tokens, heads, kv_heads, head_dim, rows, width, block_size;
  int64_t window;  // 0: none
  float scale, softcap;  // softcap 0: none
  const void* q;       // [T, H, D], float32 or bfloat16 (q_is_bf16, and then nothing is left to rotate)
  const S* k;          // [N, K, D, P]
  const S* v;          // [N, K, P, D]
  const float* k_scale;  // [N, K, P] or null
  const float* v_scale;
  const float* sinks;  // [H] or null
  const int32_t* cu_q_lens;
  const int32_t* kv_lens;
  const int32_t* tables;  // [S, W]
  RopeTable rope;      // for q
  void* out;           // [T, H, D], bfloat16 where `rounded`, else float32
  bool q_is_bf16;
  bool rounded;        // the kernel may multiply in bfloat16

  int64_t group() const { return heads / kv_heads; }

  // a head of q, rotated, rounded where the kernel multiplies in bfloat16, times the factor
  void read_head(int64_t token, int64_t head, float* to) const {
    const float factor = query_factor();
    const int64_t at = (token * heads + head) * head_dim;
    if (q_is_bf16) {
      const Bf16* from = static_cast<const Bf16*>(q) + at;
      for (int64_t i = 0; i < head_dim; i += 8) store(to + i, load<f32x8>(from + i));
    } else if (rope.pairs == 0) {
      std::copy_n(static_cast<const float*>(q) + at, head_dim, to);
    } else {
      rope.rotate(token, static_cast<const float*>(q) + at, head_dim, to);
    }
    if (rounded && !q_is_bf16) {
      for (int64_t i = 0; i < head_dim; i += 8) {
        Bf16 rounded_ones[8];
        store_rounded(rounded_ones, load<f32x8>(to + i));
        store(to + i, load<f32x8>(rounded_ones));
      }
    }
    for (int64_t i = 0; i < head_dim; ++i) to[i] *= factor;
  }

  void write_out(int64_t at, int64_t count, const float* from) const {
    if (rounded) {
      for (int64_t i = 0; i < count; i += 8) store_rounded(static_cast<Bf16*>(out) + at + i, load<f32x8>(from + i));
    } else {
      std::copy_n(from, count, static_cast<float*>(out) + at);
    }
  }

  void write_zeros(int64_t at, int64_t count) const {
    const int64_t size = rounded ? sizeof(Bf16) : sizeof(float);
    std::memset(static_cast<char*>(out) + at * size, 0, count * size);
  }

  // the row of K's and V's slots [N * K * P] that holds a position of a row for one kv head
  int64_t slot(int64_t row, int64_t kv_head, int64_t position) const {
    const int64_t block = tables[row * width + position / block_size];
    return (block * kv_heads + kv_head) * block_size + position % block_size;
  }

  // the keys from there on, to the end of their block: [D, ...] with rows block_size apart
  const S* keys_from(int64_t slot) const { return k + (slot - slot % block_size) * head_dim + slot % block_size; }

  // what queries are multiplied by, so that their products with keys are what `finish` wants
  float query_factor() const { return softcap > 0 ? scale / softcap : scale * kLog2E; }

  f32x16 finish(f32x16 products) const {
    if (softcap > 0) products = tanh16(products) * (softcap * kLog2E);
    products = products > kBound ? all(kBound) : products;
    return products < -kBound ? all(-kBound) : products;
  }
};

// query tokens [first, first + count) of a row, for one kv head; position: of the first one
struct Tile {
  int32_t row, head, first, count;
  int32_t position;
  int32_t kv_len;
  int32_t chunk;  // a decode row: the one chunk of keys to take; a prompt's tile: -1, all that it sees

  int32_t last() const { return position + count - 1; }
};

struct Range {
  int32_t begin, end;

  bool empty() const { return begin >= end; }
};

// the keys of [begin, end) that a query at `position` sees
inline Range seen_by(int32_t position, int64_t window, int32_t begin, int32_t end) {
  if (window > 0) begin = std::max<int64_t>(begin, position - window + 1);
  return {begin, std::min(end, position + 1)};
}

inline int integer_top(float highest) {
  return static_cast<int>(std::ceil(std::min(std::max(highest, -kBound), kBound)));
}

// adds a piece (sums of 2**(score - top)) to running sums; moving either to the higher top is exact
inline void merge(float* acc, float& total, int& top, const float* piece, float piece_total, int piece_top, int64_t size) {
  const int higher = std::max(top, piece_top);
  const float rise = power_of_two(top - higher), step = power_of_two(piece_top - higher);
  total = total * rise + piece_total * step;
  for (int64_t i = 0; i < size; ++i) acc[i] = acc[i] * rise + piece[i] * step;
  top = higher;
}

// acc becomes acc / total, with the sink's logit in the denominator
inline void finish_row(float* acc, float total, int top, const float* sink, int64_t size) {
  float factor = 1.0f;
  if (sink) {
    const float logit = *sink * kLog2E;
    const int higher = std::max(top, integer_top(logit));
    factor = power_of_two(top - higher);
    total = total * factor + std::exp2(std::min(std::max(logit, -kBound), kBound) - static_cast<float>(higher));
  }
  const float divisor = total == 0.0f ? 1.0f : total;
  for (int64_t i = 0; i < size; ++i) acc[i] = acc[i] * factor / divisor;
}

// scratch memory of one thread, kept from call to call
template <typename T>
T* scratch(std::vector<T>& memory, int64_t size) {
  if (static_cast<int64_t>(memory.size()) < size + 64) memory.resize(size + 64);
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) & ~uintptr_t{63});
}

}  // namespace jaxpaged
