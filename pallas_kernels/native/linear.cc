// linear on the AMX unit: x [M, A] float32 times a packed bfloat16 weight [B, A] transposed, sums in float32 in the order
// of A, for every M. The weight is held as tiles [B / 32][A / 32][2][16 pairs of A][16 of B][2]: the same bytes, permuted.

#include "amx.h"
#include "attention.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace jaxpaged {
namespace {

namespace ffi = xla::ffi;

#ifdef JAXPAGED_AMX

constexpr int64_t kTile = 512;     // bfloat16 numbers of a tile
constexpr int64_t kPanel = 32;     // outputs of a panel: two tiles side by side
constexpr int64_t kDepthBlock = 16;  // tiles of A at a time: 32 KB of a panel's weights stay in the first-level cache

// x as tiles [M / 16][A / 32][16 rows][32], zeros below the last row
void pack_rows(const float* x, int64_t rows, int64_t ins, int64_t block, uint16_t* to) {
  const int64_t depth = ins / 32;
  for (int64_t r = 0; r < 16; ++r) {
    const int64_t row = block * 16 + r;
    uint16_t* at = to + (block * depth * 16 + r) * 32;
    for (int64_t d = 0; d < depth; ++d, at += kTile) {
      if (row < rows) {
        const float* from = x + row * ins + d * 32;
        store_bf16(at, _mm512_loadu_ps(from), _mm512_loadu_ps(from + 16));
      } else {
        _mm512_storeu_si512(at, _mm512_setzero_si512());
      }
    }
  }
}

// one or two row tiles times the tiles [from, end) of a panel; sums go on from `out` unless from is 0
template <int NR>
void multiply(const uint16_t* x, const uint16_t* w, int64_t depth, int64_t from, int64_t end, float* out, int64_t row_bytes) {
  float* below = reinterpret_cast<float*>(reinterpret_cast<char*>(out) + 16 * row_bytes);
  if (from == 0) {
    tile_zero<0>(), tile_zero<1>();
    if constexpr (NR == 2) tile_zero<2>(), tile_zero<3>();
  } else {
    tile_load<0>(out, row_bytes), tile_load<1>(out + 16, row_bytes);
    if constexpr (NR == 2) tile_load<2>(below, row_bytes), tile_load<3>(below + 16, row_bytes);
  }
  for (int64_t d = from; d < end; ++d) {
    const uint16_t* b = w + d * 2 * kTile;
    tile_load<4>(x + d * kTile, 64);
    tile_load<6>(b, 64);
    tile_load<7>(b + kTile, 64);
    tile_dot<0, 4, 6>(), tile_dot<1, 4, 7>();
    if constexpr (NR == 2) {
      tile_load<5>(x + (depth + d) * kTile, 64);
      tile_dot<2, 5, 6>(), tile_dot<3, 5, 7>();
    }
  }
  tile_store<0>(out, row_bytes), tile_store<1>(out + 16, row_bytes);
  if constexpr (NR == 2) tile_store<2>(below, row_bytes), tile_store<3>(below + 16, row_bytes);
}

// all rows times one panel of 32 outputs; what a last, partial tile of rows has too much goes to scratch memory
void multiply_panel(const uint16_t* x, const uint16_t* w, int64_t rows, int64_t ins, int64_t outs, float* out) {
  const int64_t depth = ins / 32, blocks = (rows + 15) / 16, row_bytes = outs * 4;
  alignas(64) float spare[32 * kPanel];
  const int64_t whole = rows / 16;  // row tiles that lie in `out` entirely
  const int64_t step = blocks > 4 ? kDepthBlock : depth;
  for (int64_t from = 0; from < depth; from += step) {
    const int64_t end = std::min(from + step, depth);
    for (int64_t block = 0; block < whole; block += 2) {
      const uint16_t* at = x + block * depth * kTile;
      float* to = out + block * 16 * outs;
      if (block + 1 < whole) {
        multiply<2>(at, w, depth, from, end, to, row_bytes);
      } else {
        multiply<1>(at, w, depth, from, end, to, row_bytes);
      }
    }
    if (whole < blocks) multiply<1>(x + whole * depth * kTile, w, depth, from, end, spare, kPanel * 4);
  }
  for (int64_t r = whole * 16; r < rows; ++r) std::copy_n(spare + (r - whole * 16) * kPanel, kPanel, out + r * outs);
}

void multiply_all(ffi::ThreadPool& pool, const float* x, const uint16_t* w, int64_t rows, int64_t ins, int64_t outs,
                  float* out) {
  static thread_local std::vector<uint16_t> memory;
  const int64_t blocks = (rows + 15) / 16;
  uint16_t* packed = scratch(memory, blocks * 16 * ins);
  if (blocks <= 4) {
    for (int64_t block = 0; block < blocks; ++block) pack_rows(x, rows, ins, block, packed);
  } else {
    parallel_for(pool, blocks, [=](int64_t block) { pack_rows(x, rows, ins, block, packed); });
  }
  const int64_t panels = outs / kPanel, some = panels >= 64 ? 2 : 1;
  parallel_for(pool, (panels + some - 1) / some, [=](int64_t i) {
    const Tiles tiles;
    for (int64_t p = i * some; p < std::min(panels, (i + 1) * some); ++p) {
      multiply_panel(packed, w + p * kPanel * ins, rows, ins, outs, out + p * kPanel);
    }
  });
}

#endif

ffi::Error linear(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::AnyBuffer w, ffi::Result<ffi::Buffer<ffi::F32>> out) {
  const auto x_shape = x.dimensions(), shape = out->dimensions();
#ifdef JAXPAGED_AMX
  if (amx_granted() && x_shape.size() == 2 && shape.size() == 2 && x_shape[1] % 32 == 0 && shape[1] % kPanel == 0 &&
      static_cast<int64_t>(w.size_bytes()) == 2 * x_shape[1] * shape[1]) {
    multiply_all(pool, x.typed_data(), static_cast<const uint16_t*>(w.untyped_data()), x_shape[0], x_shape[1], shape[1],
                 out->typed_data());
    return ffi::Error::Success();
  }
#endif
  return ffi::Error::InvalidArgument("packed weights are for a CPU with AMX, and multiples of 32");
}

}  // namespace

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxpaged_linear_bfloat16, linear,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::Buffer<ffi::F32>>());

#pragma GCC visibility pop

}  // namespace jaxpaged
