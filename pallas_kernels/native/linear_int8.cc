// linear on the AMX unit in int8: x [M, A] float32, quantised row by row as it is read, times a packed int8 weight [B, A]
// transposed; sums are exact int32. The weight is held as tiles [B / 32][A / 64][2][16 fours of A][16 of B][4], padded
// with zeros.

#include "amx.h"
#include "attention.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

#if defined(JAXPAGED_AMX) && defined(__AMX_INT8__)
#define JAXPAGED_INT8 1
#endif

namespace jaxpaged {
namespace {

namespace ffi = xla::ffi;

#ifdef JAXPAGED_INT8

constexpr int64_t kTile = 1024;       // bytes of a tile: 16 rows of 64
constexpr int64_t kPanel = 32;        // outputs of a panel: two tiles side by side
constexpr int64_t kChunk = 1 << 20;   // bytes of rows that stay in the second-level cache while panels go by
constexpr float kLeastTop = 1e-30f;   // as `int8.LEAST_TOP`

struct Problem {
  const float* x;        // [rows, ins]
  const int8_t* w;
  const float* scales;   // [outs]
  int64_t rows, ins, outs;
  float* out;            // [rows, outs]
  int8_t* packed;        // x as tiles [rows / 16][depth][16 rows][64]
  float* row_scales;     // [rows]

  int64_t depth() const { return (ins + 63) / 64; }
};

// the largest magnitude of a row; compared as the integers of its bits, among which NaN is above all
float top_of(const float* x, int64_t count) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i top = _mm512_set1_epi32(0), other = top;
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    top = _mm512_max_epi32(top, _mm512_and_si512(_mm512_loadu_si512(x + i), magnitude));
    other = _mm512_max_epi32(other, _mm512_and_si512(_mm512_loadu_si512(x + i + 16), magnitude));
  }
  for (; i < count; i += 16) {
    const __mmask16 live = count - i < 16 ? (1u << (count - i)) - 1 : 0xffff;
    top = _mm512_max_epi32(top, _mm512_and_si512(_mm512_maskz_loadu_epi32(live, x + i), magnitude));
  }
  const int32_t bits = _mm512_reduce_max_epi32(_mm512_max_epi32(top, other));
  float found;
  std::memcpy(&found, &bits, sizeof found);
  return found < kLeastTop ? kLeastTop : found;
}

void quantise_row(const Problem& p, int64_t row) {
  const float* x = p.x + row * p.ins;
  int8_t* to = p.packed + (row / 16 * p.depth() * 16 + row % 16) * 64;
  const float top = top_of(x, p.ins);
  p.row_scales[row] = top * (1.0f / 127.0f);
  const __m512 factor = _mm512_set1_ps(127.0f / top);
  for (int64_t d = 0; d < p.depth(); ++d, to += kTile) {
    for (int64_t i = d * 64, n = 0; n < 64; i += 16, n += 16) {
      const int64_t left = p.ins - i;
      const __mmask16 live = left >= 16 ? 0xffff : left <= 0 ? 0 : (1u << left) - 1;
      const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(live, x + i), factor);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + n), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(scaled)));
    }
  }
}

// NR row tiles times a panel: i32[NR * 16][32]
template <int NR>
void multiply(const int8_t* x, const int8_t* w, int64_t depth, int32_t* sums) {
  constexpr int64_t kBytes = kPanel * 4;
  tile_zero<0>(), tile_zero<1>();
  if constexpr (NR == 2) tile_zero<2>(), tile_zero<3>();
  for (int64_t d = 0; d < depth; ++d) {
    const int8_t* b = w + d * 2 * kTile;
    tile_load<4>(x + d * kTile, 64);
    tile_load<6>(b, 64);
    tile_load<7>(b + kTile, 64);
    tile_dot_int8<0, 4, 6>(), tile_dot_int8<1, 4, 7>();
    if constexpr (NR == 2) {
      tile_load<5>(x + (depth + d) * kTile, 64);
      tile_dot_int8<2, 5, 6>(), tile_dot_int8<3, 5, 7>();
    }
  }
  tile_store<0>(sums, kBytes), tile_store<1>(sums + 16, kBytes);
  if constexpr (NR == 2) tile_store<2>(sums + 16 * kPanel, kBytes), tile_store<3>(sums + 16 * kPanel + 16, kBytes);
}

// rows [from, end) times one panel; from is a multiple of 16
void multiply_panel(const Problem& p, int64_t panel, int64_t from, int64_t end) {
  const int64_t depth = p.depth(), first = panel * kPanel, outs = std::min(kPanel, p.outs - first);
  const int8_t* w = p.w + panel * depth * 2 * kTile;
  const __mmask16 low = outs >= 16 ? 0xffff : (1u << outs) - 1;
  const __mmask16 high = outs >= 32 ? 0xffff : outs <= 16 ? 0 : (1u << (outs - 16)) - 1;
  const __m512 scale_low = _mm512_maskz_loadu_ps(low, p.scales + first);
  const __m512 scale_high = _mm512_maskz_loadu_ps(high, p.scales + first + 16);
  alignas(64) int32_t sums[32 * kPanel];
  for (int64_t row = from; row < end; row += 32) {
    const int8_t* x = p.packed + row * depth * 64;
    if (end - row > 16) {
      multiply<2>(x, w, depth, sums);
    } else {
      multiply<1>(x, w, depth, sums);
    }
    for (int64_t r = row; r < std::min(end, row + 32); ++r) {
      const int32_t* sum = sums + (r - row) * kPanel;
      const __m512 scale = _mm512_set1_ps(p.row_scales[r]);
      float* to = p.out + r * p.outs + first;
      const __m512 a = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sum)), _mm512_mul_ps(scale, scale_low));
      const __m512 b = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sum + 16)), _mm512_mul_ps(scale, scale_high));
      _mm512_mask_storeu_ps(to, low, a);
      _mm512_mask_storeu_ps(to + 16, high, b);
    }
  }
}

void multiply_all(ffi::ThreadPool& pool, Problem p) {
  static thread_local std::vector<int8_t> memory;
  static thread_local std::vector<float> scales;
  const int64_t blocks = (p.rows + 15) / 16, row_bytes = p.depth() * 64;
  p.packed = scratch(memory, blocks * 16 * row_bytes);
  p.row_scales = scratch(scales, p.rows);
  constexpr int64_t kRows = 16;  // quantised by one thread at a time
  const auto quantise = [p](int64_t i) {
    for (int64_t row = i * kRows; row < std::min(p.rows, (i + 1) * kRows); ++row) quantise_row(p, row);
  };
  if (p.rows <= kRows) {
    quantise(0);
  } else {
    parallel_for(pool, blocks, quantise);
  }
  const int64_t panels = (p.outs + kPanel - 1) / kPanel;
  const int64_t chunk = std::max<int64_t>(32, kChunk / row_bytes / 32 * 32);
  for (int64_t from = 0; from < p.rows; from += chunk) {
    const int64_t end = std::min(p.rows, from + chunk), some = panels >= 64 && end - from <= 64 ? 2 : 1;
    parallel_for(pool, (panels + some - 1) / some, [=](int64_t i) {
      const Tiles tiles;
      for (int64_t n = i * some; n < std::min(panels, (i + 1) * some); ++n) multiply_panel(p, n, from, end);
    });
  }
}

#endif

ffi::Error linear_int8(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::AnyBuffer w, ffi::Buffer<ffi::F32> scales,
                       ffi::Result<ffi::Buffer<ffi::F32>> out) {
  const auto x_shape = x.dimensions(), shape = out->dimensions();
#ifdef JAXPAGED_INT8
  if (amx_granted() && x_shape.size() == 2 && shape.size() == 2 &&
      static_cast<int64_t>(scales.element_count()) == shape[1] &&
      static_cast<int64_t>(w.size_bytes()) == (x_shape[1] + 63) / 64 * 64 * ((shape[1] + 31) / 32 * 32)) {
    Problem problem = {};
    problem.x = x.typed_data(), problem.w = static_cast<const int8_t*>(w.untyped_data());
    problem.scales = scales.typed_data(), problem.out = out->typed_data();
    problem.rows = x_shape[0], problem.ins = x_shape[1], problem.outs = shape[1];
    multiply_all(pool, problem);
    return ffi::Error::Success();
  }
#endif
  return ffi::Error::InvalidArgument("packed int8 weights are for a CPU with AMX-INT8, padded to 32 outputs and 64 inputs");
}

}  // namespace

#pragma GCC visibility push(default)

// whether packed int8 weights are multiplied here
extern "C" int jaxpaged_int8() {
#ifdef JAXPAGED_INT8
  return amx_granted() ? 1 : 0;
#else
  return 0;
#endif
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxpaged_linear_int8, linear_int8,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());

#pragma GCC visibility pop

}  // namespace jaxpaged
