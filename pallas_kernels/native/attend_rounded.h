// A prompt's tile in bfloat16: queries, keys, weights and values are rounded to it, sums are float32. For queries that
// are bfloat16 and pools whose numbers it holds exactly (bfloat16, int8, float8). Steps: what multiplies, `AmxSteps` or
// `PairSteps`.
#pragma once

#include "attend_amx.h"
#include "attend_pairs.h"

#ifdef __AVX512BF16__

namespace jaxpaged {

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

struct StepScratch {
  std::vector<uint16_t> queries, keys, values, weights;
  std::vector<float> scores, acc, totals;
  std::vector<int> tops;
};

// two vectors of numbers that bfloat16 holds, interleaved: pairs (low[i], high[i])
inline void store_pairs(uint16_t* to, f32x16 low, f32x16 high) {
  const u32x16 pairs = ((u32x16)low >> 16) | ((u32x16)high & 0xffff0000u);
  std::memcpy(to, &pairs, sizeof pairs);
}

// keys as tiles [depth of D][sub][16 pairs of d][16 keys][2]
template <typename S>
void pack_keys(const Panels<S>& p, int64_t dim, int64_t depth, uint16_t* to) {
  std::fill_n(to, depth * kStepSubs * 512, uint16_t{0});
  for (int sub = p.first_sub(); sub < p.end_sub(); ++sub) {
    for (int64_t d = 0; d < dim; d += 2) {
      uint16_t* tile = to + ((d / kStepDepth) * kStepSubs + sub) * 512;
      store_pairs(tile + (d % kStepDepth) * kLanes, load<f32x16>(p.k[sub] + d * p.stride),
                  load<f32x16>(p.k[sub] + (d + 1) * p.stride));
    }
  }
}

// values as tiles [2][D / 16][16 pairs of keys][16 of D][2]; zeros where there is no key to see
template <typename S>
void pack_values(const Panels<S>& p, int64_t dim, int64_t columns, uint16_t* to) {
  std::fill_n(to, 2 * columns * 512, uint16_t{0});
  for (int sub = p.first_sub(); sub < p.end_sub(); ++sub) {
    const int32_t from = p.base + sub * kLanes;
    for (int j = 0; j < kLanes; j += 2) {
      const bool low = from + j >= p.keys.begin && from + j < p.keys.end;
      const bool high = from + j + 1 >= p.keys.begin && from + j + 1 < p.keys.end;
      if (!low && !high) continue;
      uint16_t* pair = to + (sub / 2) * columns * 512 + ((sub % 2) * 8 + j / 2) * 32;
      const S* v = p.v[sub] + j * dim;
      int64_t d = 0;
      for (; d + 16 <= dim; d += 16) {
        store_pairs(pair + d / 16 * 512, low ? load<f32x16>(v + d) : (f32x16){}, high ? load<f32x16>(v + dim + d) : (f32x16){});
      }
      for (; d < dim; ++d) {
        uint16_t* one = pair + d / 16 * 512 + d % 16 * 2;
        f32x8 numbers = {};
        if (low) numbers = load<f32x8>(v + d / 8 * 8);
        one[0] = ((u32x8)numbers)[d % 8] >> 16;
        numbers = (f32x8){};
        if (high) numbers = load<f32x8>(v + dim + d / 8 * 8);
        one[1] = ((u32x8)numbers)[d % 8] >> 16;
      }
    }
  }
}

// queries times the factor as tiles [rows / 16][depth][16 rows][32]
template <typename S>
void pack_queries(const Attention<S>& a, const Tile& tile, int64_t rows, int64_t depth, std::vector<float>& memory,
                  uint16_t* to) {
  const int64_t dim = a.head_dim, group = a.group();
  std::fill_n(to, rows * depth * kStepDepth, uint16_t{0});
  float* query = scratch(memory, depth * kStepDepth);
  std::fill_n(query, depth * kStepDepth, 0.0f);
  for (int64_t r = 0; r < tile.count * group; ++r) {
    a.read_head(tile.first + r / group, tile.head * group + r % group, query);
    for (int64_t d = 0; d < dim; d += kStepDepth) {
      store_bf16(to + ((r / kTileRows * depth + d / kStepDepth) * kTileRows + r % kTileRows) * kStepDepth,
                 _mm512_loadu_ps(query + d), _mm512_loadu_ps(query + d + 16));
    }
  }
}

// scores s [kStep] of one row to weights [kStep]; raises the row's running sums to the new top
template <typename S>
void weights_of_step(const Attention<S>& a, const Panels<S>& p, Range seen, const float* s, uint16_t* w, float* acc,
                     int64_t row, float& total, int& top) {
  if (seen.empty()) {
    std::fill_n(w, kStep, uint16_t{0});
    return;
  }
  f32x16 x[kStepSubs];
  f32x16 high = all(kMasked);
  for (int sub = 0; sub < kStepSubs; ++sub) {
    const int32_t from = p.base + sub * kLanes;
    if (from >= seen.end || from + kLanes <= seen.begin) {
      x[sub] = all(kMasked);
      continue;
    }
    x[sub] = load<f32x16>(s + sub * kLanes);
    if (p.k_scale[sub]) x[sub] *= load<f32x16>(p.k_scale[sub]);
    x[sub] = a.finish(x[sub]);
    if (from < seen.begin || from + kLanes > seen.end) {
      const i32x16 key = iota() + from;
      x[sub] = (key >= seen.begin) & (key < seen.end) ? x[sub] : all(kMasked);
    }
    high = x[sub] > high ? x[sub] : high;
  }
  const int higher = std::max(top, integer_top(largest(high)));
  if (higher > top) {
    const float rise = power_of_two(top - higher);
    for (int64_t d = 0; d < row; ++d) acc[d] *= rise;
    total *= rise, top = higher;
  }
  f32x16 sums = {};
  for (int sub = 0; sub < kStepSubs; ++sub) {
    x[sub] = exp2_below(x[sub], top);
    sums += x[sub];
    if (sub >= p.first_sub() && sub < p.end_sub() && p.v_scale[sub]) {
      const i32x16 key = iota() + (p.base + sub * kLanes);
      x[sub] *= (key >= seen.begin) & (key < seen.end) ? load<f32x16>(p.v_scale[sub]) : (f32x16){};
    }
  }
  total += sum(sums);
  for (int sub = 0; sub < kStepSubs; sub += 2) store_bf16(w + sub * kLanes, (__m512)x[sub], (__m512)x[sub + 1]);
}

template <typename Steps, int NR, typename S>
void attend_step(const Attention<S>& a, const Tile& tile, const Panels<S>& p, int64_t from, const uint16_t* q, int64_t depth,
                 int64_t columns, StepScratch& memory, const uint16_t* keys, const uint16_t* values) {
  const int64_t group = a.group(), row = columns * kLanes;
  float* s = scratch(memory.scores, 2 * kTileRows * kStep);
  uint16_t* w = scratch(memory.weights, 2 * kTileRows * kStep);
  float* acc = scratch(memory.acc, 0) + from * row;
  const int64_t real = std::min<int64_t>(NR * kTileRows, tile.count * group - from);
  Steps::template dot_step<NR>(q + from * depth * kStepDepth, keys, depth, real, s);
  for (int64_t r = 0; r < NR * kTileRows; ++r) {
    const int64_t token = (from + r) / group;
    const Range seen = token < tile.count ? seen_by(tile.position + token, a.window, p.keys.begin, p.keys.end) : Range{0, 0};
    weights_of_step(a, p, seen, s + r * kStep, w + r * kStep, acc + r * row, row, memory.totals[from + r],
                    memory.tops[from + r]);
  }
  Steps::template weigh_step<NR>(w, values, columns, real, acc);
}

template <typename Steps, typename S>
void attend_tile_rounded(const Attention<S>& a, const Tile& tile, StepScratch& memory) {
  const int64_t dim = a.head_dim, group = a.group(), rows = round_up(tile.count * group, kTileRows);
  const int64_t depth = round_up(dim, kStepDepth) / kStepDepth, columns = round_up(dim, kLanes) / kLanes, row = columns * kLanes;
  uint16_t* q = scratch(memory.queries, rows * depth * kStepDepth);
  pack_queries(a, tile, rows, depth, memory.scores, q);
  float* acc = scratch(memory.acc, rows * row);
  std::fill_n(acc, rows * row, 0.0f);
  memory.totals.assign(rows, 0.0f);
  memory.tops.assign(rows, kLowest);
  uint16_t* keys = scratch(memory.keys, depth * kStepSubs * 512);
  uint16_t* values = scratch(memory.values, 2 * columns * 512);
  const int32_t end = std::min(tile.last() + 1, tile.kv_len);
  const int32_t oldest = seen_by(tile.position, a.window, 0, end).begin;
  [[maybe_unused]] const typename Steps::Unit unit;
  for (int32_t base = oldest / kStep * kStep; base < end; base += kStep) {
    const Panels<S> p = panels_of(a, tile.row, tile.head, base, {std::max(base, oldest), std::min(base + kStep, end)});
    pack_keys(p, dim, depth, keys);
    pack_values(p, dim, columns, values);
    for (int64_t from = 0; from < rows; from += 2 * kTileRows) {
      const int64_t some = std::min<int64_t>(rows - from, 2 * kTileRows);
      const int64_t last = std::min<int64_t>((from + some - 1) / group, tile.count - 1);
      if (tile.position + last < base) continue;  // none of these rows has come so far
      if (some == 2 * kTileRows) {
        attend_step<Steps, 2>(a, tile, p, from, q, depth, columns, memory, keys, values);
      } else {
        attend_step<Steps, 1>(a, tile, p, from, q, depth, columns, memory, keys, values);
      }
    }
  }
  for (int64_t r = 0; r < tile.count * group; ++r) {
    const int64_t h = tile.head * group + r % group;
    finish_row(acc + r * row, memory.totals[r], memory.tops[r], a.sinks ? a.sinks + h : nullptr, dim);
    a.write_out(((tile.first + r / group) * a.heads + h) * dim, dim, acc + r * row);
  }
}

}  // namespace jaxpaged

#endif
