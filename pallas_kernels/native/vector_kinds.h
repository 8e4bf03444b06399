// What products in vectors multiply: float32 with AVX2 or AVX-512, bfloat16 with AVX512-BF16, int8 with AVX512-VNNI.
#pragma once

#include "bfloat16.h"
#include "product_vector.h"
#include "quantise.h"

namespace jaxpaged::vector {

// panels [B / 32][A][32 of B]. A sum is one chain of fused multiply-adds
struct Float32 {
#ifdef __AVX512F__
  using Sum = f32x16;
  static constexpr int64_t kMostRows = 14;  // of a block: 28 of 32 registers hold sums
#else
  using Sum = f32x8;
  static constexpr int64_t kMostRows = 6;  // 12 of 16
#endif
  using Weights = Sum;
  static constexpr bool kQuantises = false, kTiled = false;
  static constexpr int64_t kSpan = sizeof(Sum) / 4, kWidth = 2 * kSpan, kWordsOfRow = 0;

  Float32(const float*, int64_t, int64_t ins, void*) : ins(ins) {}

  static bool fits(int64_t outs, int64_t, int64_t scales) { return outs % kPanel == 0 && scales == 0; }
  static int64_t words(int64_t ins) { return ins; }

  static int64_t place(int64_t k, int64_t v) { return k * kPanel + v * kSpan; }
  static Weights weights(const uint32_t* w) { return load_as<Weights>(w); }
  static Sum broadcast(uint32_t word) {
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value - Sum{};
  }
  static Sum add(Sum sum, Weights w, Sum x) { return sum + w * x; }

  struct Words {
    const float* row;
    int64_t ins;

    void put(int64_t word, uint32_t* to) const { std::memcpy(to, row + word, std::min(kTile, ins - word) * 4); }
  };
  Words words_of(int64_t, const float* row) const { return {row, ins}; }

  template <typename At>
  void put(int64_t input, f32x16 low, f32x16 high, At at) const {
    std::memcpy(at(input), &low, sizeof low);
    std::memcpy(at(input + kTile), &high, sizeof high);
  }

  void finish(int64_t, int64_t, int64_t, float*) const {}

  int64_t ins;
};

#ifdef __AVX512BF16__
#define JAXPAGED_VECTOR_BFLOAT16 1

// tiles [B / 32][A / 32][2][16 pairs of A][16 of B][2], as the AMX unit has them. Subnormal numbers count as zero
struct Bfloat16 {
  using Sum = __m512;
  using Weights = __m512bh;
  static constexpr bool kQuantises = false, kTiled = true;
  static constexpr int64_t kMostRows = 14, kWidth = kPanel, kWordsOfRow = 0;

  Bfloat16(const float*, int64_t, int64_t, void*) {}

  static bool fits(int64_t outs, int64_t ins, int64_t scales) {
    return outs % kPanel == 0 && ins % 32 == 0 && scales == 0;
  }
  static int64_t words(int64_t ins) { return ins / 2; }

  static int64_t place(int64_t k, int64_t v) { return v * kTile * 16 + k * 16; }
  static Weights weights(const uint32_t* w) { return (__m512bh)_mm512_loadu_si512(w); }
  static Weights broadcast(uint32_t word) { return (__m512bh)_mm512_set1_epi32(word); }
  static Sum add(Sum sum, Weights w, Weights x) { return _mm512_dpbf16_ps(sum, w, x); }

  struct Words {
    const float* row;

    void put(int64_t word, uint32_t* to) const {
      store_bf16(to, _mm512_loadu_ps(row + 2 * word), _mm512_loadu_ps(row + 2 * word + 16));
    }
  };
  Words words_of(int64_t, const float* row) const { return {row}; }

  template <typename At>
  void put(int64_t input, f32x16 low, f32x16 high, At at) const {
    store_bf16(at(input / 2), (__m512)low, (__m512)high);
  }

  void finish(int64_t, int64_t, int64_t, float*) const {}
};
#endif

#ifdef __AVX512VNNI__
#define JAXPAGED_VECTOR_INT8 1

// tiles [B / 32][A / 64][2][16 fours of A][16 of B][4], padded with zeros, as the AMX unit has them. The instruction
// wants one side unsigned: weights have 128 added as they are read, and a row's sums lose 128 times the sum of its numbers
struct Int8 {
  using Sum = __m512i;
  using Weights = __m512i;
  static constexpr bool kQuantises = true, kTiled = true;
  static constexpr int64_t kMostRows = 14, kWidth = kPanel, kWordsOfRow = 2;

  // what a row's sums become float32 by
  struct OfRow {
    float scale;
    int32_t more;
  };
  static_assert(sizeof(OfRow) == kWordsOfRow * 4);

  Int8(const float* scales, int64_t outs, int64_t ins, void* memory)
      : scales(scales), outs(outs), ins(ins), of_rows(static_cast<OfRow*>(memory)) {}

  static bool fits(int64_t outs, int64_t, int64_t scales) { return scales == outs; }
  static int64_t words(int64_t ins) { return (ins + 63) / 64 * 16; }

  static int64_t place(int64_t k, int64_t v) { return v * kTile * 16 + k * 16; }
  static Weights weights(const uint32_t* w) { return _mm512_xor_si512(_mm512_loadu_si512(w), _mm512_set1_epi8(-128)); }
  static __m512i broadcast(uint32_t word) { return _mm512_set1_epi32(word); }
  // written out, as GCC 12 moves the sums of its own form to the stack and back
  static Sum add(Sum sum, Weights w, __m512i x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
  }

  struct Words {
    Quantiser quantiser;
    OfRow* of_row;

    void put(int64_t word, uint32_t* to) const {
      quantiser.put(word / 16, to);
      const __m512i sums = _mm512_dpbusd_epi32(__m512i{}, _mm512_set1_epi8(1), _mm512_loadu_si512(to));
      of_row->more -= 128 * _mm512_reduce_add_epi32(sums);
    }
  };
  Words words_of(int64_t row, const float* from) const {
    const Quantiser quantiser(from, ins);
    of_rows[row] = {quantiser.scale(), 0};
    return {quantiser, of_rows + row};
  }

  template <typename At>
  void put(int64_t, f32x16, f32x16, At) const {}

  void finish(int64_t first, int64_t rows, int64_t panel, float* sums) const {
    const OutputScales of_outputs(scales, outs, panel * kPanel);
    for (int64_t r = 0; r < rows; ++r) {
      of_outputs.apply(of_rows[first + r].scale, of_rows[first + r].more, sums + r * kPanel);
    }
  }

  const float* scales;
  int64_t outs, ins;
  OfRow* of_rows;
};
#endif

}  // namespace jaxpaged::vector
