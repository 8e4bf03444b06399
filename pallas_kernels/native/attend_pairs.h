// What attention in bfloat16 multiplies in vectors, with AVX512-BF16: the same tiles as on the AMX unit, pair by pair.
#pragma once

#include "attend_step.h"
#include "bfloat16.h"

#ifdef __AVX512BF16__

namespace jaxpaged {

struct PairSteps {
  struct Unit {};

  // products of `rows` query rows, of NR x 16, and the step's 64 keys, into s [NR * 16, kStep]
  template <int NR>
  static void dot_step(const uint16_t* q, const uint16_t* keys, int64_t depth, int64_t rows, float* s) {
    for (int64_t r = 0; r < rows; r += kRows) {
      __m512 sum[kRows][kStepSubs] = {};
      const uint16_t* x = q + (r / kTileRows * depth * kTileRows + r % kTileRows) * kStepDepth;
      for (int64_t d = 0; d < depth; ++d) {
        add<kRows, kStepSubs>(x + d * kNumbers, kStepDepth, keys + d * kStepSubs * kNumbers, sum);
      }
      store<kRows, kStepSubs>(sum, s + r * kStep, kStep);
    }
  }

  // acc [NR * 16, columns * 16] += weights [NR * 16, kStep] times the step's values, for `rows` rows
  template <int NR>
  static void weigh_step(const uint16_t* w, const uint16_t* values, int64_t columns, int64_t rows, float* acc) {
    for (int64_t r = 0; r < rows; r += kRows) {
      const uint16_t* weights = w + r * kStep;
      float* sums = acc + r * columns * kLanes;
      int64_t c = 0;
      for (; c + 4 <= columns; c += 4) weigh<4>(weights, values + c * kNumbers, columns, sums + c * kLanes);
      for (; c < columns; ++c) weigh<1>(weights, values + c * kNumbers, columns, sums + c * kLanes);
    }
  }

 private:
  static constexpr int kRows = 4, kPairs = 16;  // rows at a time; pairs of a tile
  static constexpr int64_t kNumbers = kTileRows * kStepDepth;  // of a tile

  // sums += R rows' 32 numbers, rows `apart` numbers apart, times C tiles one behind the other
  template <int R, int C>
  static void add(const uint16_t* x, int64_t apart, const uint16_t* tiles, __m512 (&sum)[R][C]) {
    for (int p = 0; p < kPairs; ++p) {
      __m512bh of_tile[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) of_tile[c] = (__m512bh)_mm512_loadu_si512(tiles + c * kNumbers + p * 32);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        int32_t pair;
        std::memcpy(&pair, x + r * apart + 2 * p, sizeof pair);
        const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) sum[r][c] = _mm512_dpbf16_ps(sum[r][c], of_tile[c], both);
      }
    }
  }

  template <int R, int C>
  static void store(const __m512 (&sum)[R][C], float* to, int64_t row) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) _mm512_storeu_ps(to + r * row + c * kLanes, sum[r][c]);
    }
  }

  // C columns of 16 of kRows rows
  template <int C>
  static void weigh(const uint16_t* w, const uint16_t* values, int64_t columns, float* acc) {
    __m512 sum[kRows][C];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sum[r][c] = _mm512_loadu_ps(acc + (r * columns + c) * kLanes);
    }
    for (int half = 0; half < 2; ++half) {
      add<kRows, C>(w + half * kStepDepth, kStep, values + half * columns * kNumbers, sum);
    }
    store<kRows, C>(sum, acc, columns * kLanes);
  }
};

}  // namespace jaxpaged

#endif
