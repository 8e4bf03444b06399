// Attention in float32 vectors, for pools of any type. A chunk of keys gives a piece of each query row's softmax whose
// bits depend on that row and those keys alone: so decode and prefill, however cut, sum the same numbers in one order.
#pragma once

#include "attention.h"

namespace jaxpaged {

constexpr int kChunk = 256;  // keys of a piece: positions from one multiple of it to the next
constexpr int kSubs = kChunk / kLanes;
constexpr int kAhead = 3;  // panels of values that are on their way while one is weighed

// where the keys of a chunk lie, 16 by 16: k is [D, 16] with rows `stride` apart, v is [16, D]
template <typename S>
struct Panels {
  const S* k[kSubs];
  const S* v[kSubs];
  const float* k_scale[kSubs];
  const float* v_scale[kSubs];
  const S* after[kAhead] = {};  // what is read when these are done, if it is known
  int64_t stride;
  Range keys;  // those that hold a token and are wanted; the rest of their panels may be anything
  int32_t base;

  int first_sub() const { return (keys.begin - base) / kLanes; }
  int end_sub() const { return (keys.end - base + kLanes - 1) / kLanes; }
};

template <typename S>
Panels<S> panels_of(const Attention<S>& a, int32_t row, int32_t head, int32_t base, Range keys) {
  Panels<S> p;
  p.stride = a.block_size, p.keys = keys, p.base = base;
  for (int sub = p.first_sub(); sub < p.end_sub(); ++sub) {
    const int64_t slot = a.slot(row, head, base + sub * kLanes);
    p.k[sub] = a.keys_from(slot);
    p.v[sub] = a.v + slot * a.head_dim;
    p.k_scale[sub] = a.k_scale ? a.k_scale + slot : nullptr;
    p.v_scale[sub] = a.v_scale ? a.v_scale + slot : nullptr;
  }
  return p;
}

// products of R query rows [R, D] and C panels of 16 keys, into s [R, kChunk]; `next`: panels of as many numbers that are
// read soon, their d-th 16 numbers `next_stride` apart
template <int R, int C, typename S>
inline void dot_keys(const float* q, int64_t dim, const S* const* k, int64_t stride, const S* const* next,
                     int64_t next_stride, float* s) {
  f32x16 acc[R][C];
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) acc[r][c] = (f32x16){};
  }
  for (int64_t d = 0; d < dim; ++d) {
    f32x16 keys[C];
    for (int c = 0; c < C; ++c) {
      keys[c] = load<f32x16>(k[c] + d * stride);
      __builtin_prefetch(next[c] + d * next_stride);
    }
    for (int r = 0; r < R; ++r) {
      const float query = q[r * dim + d];
      for (int c = 0; c < C; ++c) acc[r][c] += query * keys[c];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) store(s + r * kChunk + c * kLanes, acc[r][c]);
  }
}

template <int R, typename S>
void score_rows(const float* q, int64_t dim, const Panels<S>& p, float* s) {
  constexpr int kWide = R <= 4 ? 4 : 2;
  const int end = p.end_sub();
  int sub = p.first_sub();
  for (; sub + kWide <= end; sub += kWide) {
    const bool more = sub + 2 * kWide <= end;  // else the values are next
    dot_keys<R, kWide>(q, dim, p.k + sub, p.stride, more ? p.k + sub + kWide : p.v + p.first_sub(),
                       more ? p.stride : kLanes, s + sub * kLanes);
  }
  for (; sub < end; ++sub) dot_keys<R, 1>(q, dim, p.k + sub, p.stride, p.v + p.first_sub(), kLanes, s + sub * kLanes);
}

// weights [R, kChunk] times the values of NV vectors from column d on, into out [R, D]
template <int R, int NV, typename V, typename S>
inline void weigh_values(const float* w, const Panels<S>& p, int64_t dim, int64_t d, float* out) {
  constexpr int kWidth = sizeof(V) / sizeof(float);
  V acc[R][NV];
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < NV; ++n) acc[r][n] = (V){};
  }
  for (int sub = p.first_sub(); sub < p.end_sub(); ++sub) {
    const int32_t from = p.base + sub * kLanes;
    const int begin = std::max(p.keys.begin - from, 0), end = std::min(p.keys.end - from, kLanes);
    const int ahead = sub + kAhead - p.end_sub();
    const S* next = ahead < 0 ? p.v[sub + kAhead] + d : p.after[ahead] ? p.after[ahead] : p.v[sub] + d;
    for (int j = begin; j < end; ++j) {
      V values[NV];
      for (int n = 0; n < NV; ++n) values[n] = load<V>(p.v[sub] + j * dim + d + n * kWidth);
      for (size_t at = 0; at < NV * kWidth * sizeof(S); at += 64) __builtin_prefetch(reinterpret_cast<const char*>(next + j * dim) + at);
      for (int r = 0; r < R; ++r) {
        const float weight = w[r * kChunk + sub * kLanes + j];
        for (int n = 0; n < NV; ++n) acc[r][n] += weight * values[n];
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < NV; ++n) store(out + r * dim + d + n * kWidth, acc[r][n]);
  }
}

template <int R, typename S>
void weigh_rows(const float* w, const Panels<S>& p, int64_t dim, float* out) {
  int64_t d = 0;
  for (; d + 64 <= dim; d += 64) weigh_values<R, 4, f32x16>(w, p, dim, d, out);
  for (; d + 16 <= dim; d += 16) weigh_values<R, 1, f32x16>(w, p, dim, d, out);
  if (d < dim) weigh_values<R, 1, f32x8>(w, p, dim, d, out);
}

// scores of one query row to weights, in place; what the row does not see weighs 0. Returns the row's top.
template <typename S>
int weights_of(const Attention<S>& a, const Panels<S>& p, Range seen, float* s, float& total) {
  f32x16 high = all(kMasked);
  const int first = p.first_sub(), end = p.end_sub();
  for (int sub = first; sub < end; ++sub) {
    f32x16 x = load<f32x16>(s + sub * kLanes);
    if (p.k_scale[sub]) x *= load<f32x16>(p.k_scale[sub]);
    x = a.finish(x);
    const i32x16 key = iota() + (p.base + sub * kLanes);
    x = (key >= seen.begin) & (key < seen.end) ? x : all(kMasked);
    high = x > high ? x : high;
    store(s + sub * kLanes, x);
  }
  const int top = integer_top(largest(high));
  f32x16 sums = {};
  for (int sub = first; sub < end; ++sub) {
    f32x16 w = exp2_below(load<f32x16>(s + sub * kLanes), top);
    sums += w;
    if (p.v_scale[sub]) {
      const i32x16 key = iota() + (p.base + sub * kLanes);
      w *= (key >= seen.begin) & (key < seen.end) ? load<f32x16>(p.v_scale[sub]) : (f32x16){};
    }
    store(s + sub * kLanes, w);
  }
  total = sum(sums);
  return top;
}

// how rows are multiplied: as float32. Another way may lay prepared queries [R, D] otherwise, each in its own place
struct InFloat32 {
  static void prepare(float*, int64_t, int64_t) {}

  template <int R, typename S>
  static void score(const float* q, int64_t dim, const Panels<S>& p, float* s) {
    score_rows<R>(q, dim, p, s);
  }

  // may change the weights
  template <int R, typename S>
  static void weigh(float* w, const Panels<S>& p, int64_t dim, float* out) {
    weigh_rows<R>(w, p, dim, out);
  }
};

struct VectorScratch {
  std::vector<float> queries, scores, piece, acc, keys, totals;
};

// the piece of up to 8 rows: row r is query row `from + r` of the tile; q [R, D] is prepared
template <typename How, int R, typename S>
void attend_rows(const Attention<S>& a, const Tile& tile, const Panels<S>& p, const float* q, int64_t from, int64_t real,
                 float* s, float* piece, float* totals, int* tops) {
  const int64_t dim = a.head_dim;
  How::template score<R>(q, dim, p, s);
  for (int64_t r = 0; r < R; ++r) {
    const Range seen = r < real ? seen_by(tile.position + (from + r) / a.group(), a.window, p.keys.begin, p.keys.end)
                                : Range{0, 0};
    if (seen.empty()) {
      std::fill_n(s + r * kChunk, kChunk, 0.0f);
      tops[r] = kLowest, totals[r] = 0.0f;
    } else {
      tops[r] = weights_of(a, p, seen, s + r * kChunk, totals[r]);
    }
  }
  if constexpr (R <= 4) {
    How::template weigh<R>(s, p, dim, piece);
  } else {
    How::template weigh<4>(s, p, dim, piece);
    How::template weigh<R - 4>(s + 4 * kChunk, p, dim, piece + 4 * dim);
  }
}

constexpr int kMostRows = 8;

// calls attend_rows for rows [from, from + real), with as many rows of zeros as the next size needs
template <typename How, typename S>
void attend_some(const Attention<S>& a, const Tile& tile, const Panels<S>& p, const float* q, int64_t from, int64_t real,
                 float* s, float* piece, float* totals, int* tops) {
  switch (real) {
    case 1: return attend_rows<How, 1>(a, tile, p, q, from, real, s, piece, totals, tops);
    case 2: return attend_rows<How, 2>(a, tile, p, q, from, real, s, piece, totals, tops);
    case 3: return attend_rows<How, 3>(a, tile, p, q, from, real, s, piece, totals, tops);
    case 4: return attend_rows<How, 4>(a, tile, p, q, from, real, s, piece, totals, tops);
    default: return attend_rows<How, 8>(a, tile, p, q, from, real, s, piece, totals, tops);
  }
}

// the tile's queries [rows + padding, D] times the factor, rows in the order (token, head of the group)
template <typename S>
float* prepare_queries(const Attention<S>& a, const Tile& tile, std::vector<float>& memory) {
  const int64_t dim = a.head_dim, group = a.group(), rows = tile.count * group;
  float* q = scratch(memory, (rows + kMostRows) * dim);
  for (int64_t t = 0; t < tile.count; ++t) {
    for (int64_t g = 0; g < group; ++g) a.read_head(tile.first + t, tile.head * group + g, q + (t * group + g) * dim);
  }
  std::fill_n(q + rows * dim, kMostRows * dim, 0.0f);
  return q;
}

// the whole chunk as float32, so that the rows of a prompt's tile convert it once
template <typename S>
Panels<float> widened(const Panels<S>& p, int64_t dim, std::vector<float>& memory) {
  Panels<float> wide;
  wide.stride = kLanes, wide.keys = p.keys, wide.base = p.base;
  float* keys = scratch(memory, 2 * kChunk * dim);
  float* values = keys + kChunk * dim;
  for (int sub = p.first_sub(); sub < p.end_sub(); ++sub) {
    float* k = keys + sub * kLanes * dim;
    float* v = values + sub * kLanes * dim;
    for (int64_t d = 0; d < dim; ++d) store(k + d * kLanes, load<f32x16>(p.k[sub] + d * p.stride));
    for (int64_t i = 0; i < kLanes * dim; i += 8) store(v + i, load<f32x8>(p.v[sub] + i));
    wide.k[sub] = k, wide.v[sub] = v, wide.k_scale[sub] = p.k_scale[sub], wide.v_scale[sub] = p.v_scale[sub];
  }
  return wide;
}

// one chunk of a decode row: its piece [G, D], totals and tops go to `piece`, `totals`, `tops`
template <typename How, typename S>
void attend_chunk(const Attention<S>& a, const Tile& tile, const Tile* next, VectorScratch& memory, float* piece, float* totals,
                  int* tops) {
  const int64_t dim = a.head_dim, group = a.group();
  const int32_t base = tile.chunk * kChunk;
  const Range keys = seen_by(tile.position, a.window, base, std::min(base + kChunk, tile.kv_len));
  float* q = prepare_queries(a, tile, memory.queries);
  How::prepare(q, group + kMostRows, dim);
  Panels<S> p = panels_of(a, tile.row, tile.head, base, keys);
  if (next) {
    for (int i = 0; i < kAhead; ++i) {
      const int64_t position = next->chunk * kChunk + i * kLanes;
      if (position >= next->kv_len) break;
      p.after[i] = a.keys_from(a.slot(next->row, next->head, position));
    }
  }
  float* s = scratch(memory.scores, kMostRows * kChunk);
  float* some = scratch(memory.piece, kMostRows * dim);
  float some_totals[kMostRows];
  int some_tops[kMostRows];
  for (int64_t from = 0; from < group; from += kMostRows) {
    const int64_t real = std::min<int64_t>(kMostRows, group - from);
    attend_some<How>(a, tile, p, q + from * dim, from, real, s, some, some_totals, some_tops);
    std::copy_n(some, real * dim, piece + from * dim);
    std::copy_n(some_totals, real, totals + from);
    std::copy_n(some_tops, real, tops + from);
  }
}

// all chunks of a prompt's tile, then its result
template <typename S>
void attend_tile(const Attention<S>& a, const Tile& tile, VectorScratch& memory) {
  const int64_t dim = a.head_dim, group = a.group(), rows = tile.count * group;
  const float* q = prepare_queries(a, tile, memory.queries);
  float* acc = scratch(memory.acc, rows * dim);
  std::fill_n(acc, rows * dim, 0.0f);
  float* totals = scratch(memory.totals, rows);
  std::fill_n(totals, rows, 0.0f);
  std::vector<int> tops(rows, kLowest);
  float* s = scratch(memory.scores, kMostRows * kChunk);
  float* piece = scratch(memory.piece, kMostRows * dim);
  const int32_t end = std::min(tile.last() + 1, tile.kv_len);
  const int32_t oldest = seen_by(tile.position, a.window, 0, end).begin;
  for (int32_t base = oldest / kChunk * kChunk; base < end; base += kChunk) {
    const Panels<S> stored = panels_of(a, tile.row, tile.head, base, {std::max(base, oldest), std::min(base + kChunk, end)});
    Panels<float> p;
    if constexpr (std::is_same_v<S, float>) {
      p = stored;
    } else {
      p = widened(stored, dim, memory.keys);
    }
    const Attention<float> wide{a.tokens, a.heads, a.kv_heads, dim, a.rows, a.width, a.block_size, a.window, a.scale,
                                a.softcap};
    for (int64_t from = 0; from < rows; from += kMostRows) {
      const int64_t real = std::min<int64_t>(kMostRows, rows - from);
      float some_totals[kMostRows];
      int some_tops[kMostRows];
      attend_some<InFloat32>(wide, tile, p, q + from * dim, from, real, s, piece, some_totals, some_tops);
      for (int64_t r = 0; r < real; ++r) {
        if (some_tops[r] == kLowest) continue;
        merge(acc + (from + r) * dim, totals[from + r], tops[from + r], piece + r * dim, some_totals[r], some_tops[r], dim);
      }
    }
  }
  for (int64_t t = 0; t < tile.count; ++t) {
    for (int64_t g = 0; g < group; ++g) {
      const int64_t r = t * group + g, h = tile.head * group + g;
      finish_row(acc + r * dim, totals[r], tops[r], a.sinks ? a.sinks + h : nullptr, dim);
      a.write_out(((tile.first + t) * a.heads + h) * dim, dim, acc + r * dim);
    }
  }
}

}  // namespace jaxpaged
