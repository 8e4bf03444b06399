// A decode row over a pool of bfloat16, in pairs: queries and weights are rounded to bfloat16, sums are float32. For
// queries that are bfloat16, and heads of thirty-twos. Not where AMX is: there it was no faster.
#pragma once

#include "amx.h"
#include "attend_vector.h"
#include "bfloat16.h"

#ifdef __AVX512BF16__

namespace jaxpaged {

struct InPairs {
  static bool serves(int64_t dim) {
#ifdef JAXPAGED_AMX
    if (amx_granted()) return false;
#endif
    return dim % 32 == 0;
  }

  // each row's numbers become pairs, in the first half of their place
  static void prepare(float* q, int64_t rows, int64_t dim) {
    for (int64_t r = 0; r < rows; ++r) round_row(q + r * dim, dim);
  }

  template <int R>
  static void score(const float* q, int64_t dim, const Panels<Bf16>& p, float* s) {
    constexpr int kWide = R <= 4 ? 4 : 2;
    const int end = p.end_sub();
    int sub = p.first_sub();
    for (; sub + kWide <= end; sub += kWide) {
      const bool more = sub + 2 * kWide <= end;  // else the values are next
      dot<R, kWide>(q, dim, p.k + sub, p.stride, more ? p.k + sub + kWide : p.v + p.first_sub(), more ? p.stride : kLanes,
                    s + sub * kLanes);
    }
    for (; sub < end; ++sub) dot<R, 1>(q, dim, p.k + sub, p.stride, p.v + p.first_sub(), kLanes, s + sub * kLanes);
  }

  template <int R>
  static void weigh(float* w, const Panels<Bf16>& p, int64_t dim, float* out) {
    const int64_t first = p.first_sub() * kLanes / 32 * 32, end = (p.end_sub() * kLanes + 31) / 32 * 32;
    for (int r = 0; r < R; ++r) {
      if (p.first_sub() % 2) std::fill_n(w + r * kChunk + first, kLanes, 0.0f);  // what shares a vector with weights
      if (p.end_sub() % 2) std::fill_n(w + r * kChunk + end - kLanes, kLanes, 0.0f);
      round_row(w + r * kChunk + first, end - first);
    }
    int64_t d = 0;
    for (; d + 64 <= dim; d += 64) weigh_some<R, 2>(w, first, p, dim, d, out);
    if (d < dim) weigh_some<R, 1>(w, first, p, dim, d, out);
  }

 private:
  static void round_row(float* row, int64_t size) {
    for (int64_t i = 0; i < size; i += 32) {
      store_bf16(row + i / 2, _mm512_loadu_ps(row + i), _mm512_loadu_ps(row + i + 16));
    }
  }

  // into the second-level cache: Zen 4 fetches 18 GB/s a thread of blocks of 2 KB so, 10 into the first
  static void fetch(const Bf16* from) { __builtin_prefetch(from, 0, 2); }

  static __m512bh broadcast(const float* pair) { return (__m512bh)_mm512_set1_ps(*pair); }

  // which of two vectors' 32 numbers each make pairs with those of the other: from `from` on
  static __m512i interleaving(int from) {
    const i32x16 low = iota() + from;
    return (__m512i)(low | (low + 32) << 16);
  }

  static __m512i half(const Bf16* from) { return _mm512_castsi256_si512(_mm256_loadu_epi16(from)); }

  // products of R rows and C panels of 16 keys, into s [R, kChunk]; next: as in `dot_keys`
  template <int R, int C>
  static void dot(const float* q, int64_t dim, const Bf16* const* k, int64_t stride, const Bf16* const* next,
                  int64_t next_stride, float* s) {
    const __m512i order = interleaving(0);
    __m512 sum[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sum[r][c] = _mm512_setzero_ps();
    }
    for (int64_t d = 0; d < dim; d += 2) {
      __m512bh keys[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        const Bf16* from = k[c] + d * stride;
        keys[c] = (__m512bh)_mm512_permutex2var_epi16(half(from), order, half(from + stride));
        fetch(next[c] + d * next_stride);
        if (next_stride > kLanes) fetch(next[c] + (d + 1) * next_stride);
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512bh query = broadcast(q + r * dim + d / 2);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) sum[r][c] = _mm512_dpbf16_ps(sum[r][c], keys[c], query);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) _mm512_storeu_ps(s + r * kChunk + c * kLanes, sum[r][c]);
    }
  }

  // rounded weights, those of keys from `first` on, times N x 32 values from column d on, into out [R, D]
  template <int R, int N>
  static void weigh_some(const float* w, int64_t first, const Panels<Bf16>& p, int64_t dim, int64_t d, float* out) {
    const __m512i order[2] = {interleaving(0), interleaving(16)};
    __m512 sum[R][2 * N];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int n = 0; n < 2 * N; ++n) sum[r][n] = _mm512_setzero_ps();
    }
    for (int sub = p.first_sub(); sub < p.end_sub(); ++sub) {
      const int32_t from = p.base + sub * kLanes;
      const int begin = std::max(p.keys.begin - from, 0), end = std::min(p.keys.end - from, kLanes);
      const int ahead = sub + kAhead - p.end_sub();
      const Bf16* next = ahead < 0 ? p.v[sub + kAhead] + d : p.after[ahead] ? p.after[ahead] : p.v[sub] + d;
      for (int j = begin / 2 * 2; j < end; j += 2) {
        const bool low = j >= begin, high = j + 1 < end;  // what is behind may be anything
        const Bf16* v = p.v[sub] + j * dim + d;
        __m512bh values[2 * N];
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) {
          const __m512i a = low ? _mm512_loadu_si512(v + n * 32) : _mm512_setzero_si512();
          const __m512i b = high ? _mm512_loadu_si512(v + dim + n * 32) : _mm512_setzero_si512();
          values[2 * n] = (__m512bh)_mm512_permutex2var_epi16(a, order[0], b);
          values[2 * n + 1] = (__m512bh)_mm512_permutex2var_epi16(a, order[1], b);
          fetch(next + j * dim + n * 32), fetch(next + (j + 1) * dim + n * 32);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const __m512bh weight = broadcast(w + r * kChunk + first + (sub * kLanes + j - first) / 2);
#pragma GCC unroll 4
          for (int n = 0; n < 2 * N; ++n) sum[r][n] = _mm512_dpbf16_ps(sum[r][n], values[n], weight);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int n = 0; n < 2 * N; ++n) _mm512_storeu_ps(out + r * dim + d + n * 16, sum[r][n]);
    }
  }
};

}  // namespace jaxpaged

#endif
