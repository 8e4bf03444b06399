// The loop that products on the AMX unit share: tiles of 1024 bytes, 16 rows of 32 bfloat16 or of 64 int8.
#pragma once

#include "amx.h"
#include "product.h"

#ifdef JAXPAGED_AMX

namespace jaxpaged {

constexpr int64_t kTileBytes = 1024;
constexpr int64_t kBlock = 32;  // rows of a block: two tiles, one below the other
constexpr int64_t kSums = kBlock * kPanel;
constexpr int64_t kAheadBytes = 8192;  // of a weight, that are asked for before they are multiplied

// store(row, rows, panel, sums, kSums) for every block: sums f32[Weights][32][32] of the panels `panel`, `panel + panels`, ...
template <int Weights, typename Product, typename Store>
void multiply_rows(xla::ffi::ThreadPool& pool, const Product& product, int64_t rows, int64_t panels, Store store) {
  if (rows == 0) return;
  const int64_t most = std::max<int64_t>(64, kResident / product.row_bytes());
  const int64_t chunks = (rows + most - 1) / most;
  const int64_t chunk = ((rows + chunks - 1) / chunks + kBlock - 1) / kBlock * kBlock;
  const int64_t some = panels >= 64 && rows <= 64 ? 2 : 1, jobs = (panels + some - 1) / some;
  parallel_for(pool, chunks * jobs, [=](int64_t job) {
    const typename Product::Unit unit;
    alignas(64) float sums[Weights * kSums];
    const int64_t from = job / jobs * chunk, end = std::min(rows, from + chunk), first = job % jobs * some;
    for (int64_t panel = first; panel < std::min(panels, first + some); ++panel) {
      for (int64_t row = from; row < end; row += kBlock) {
        for (int weight = 0; weight < Weights; ++weight) {
          const int64_t which = panel + weight * panels;
          if (end - row > 16) {
            product.template multiply<2>(row, which, row == from, sums + weight * kSums);
          } else {
            product.template multiply<1>(row, which, row == from, sums + weight * kSums);
          }
        }
        store(row, std::min(end - row, kBlock), panel, sums, kSums);
      }
    }
  });
}

// asks for the cache lines of `bytes` bytes; Write: to be written
template <bool Write>
inline void fetch(const void* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(from) + i, Write, Write ? 3 : 2);
}

// sums of two tiles side by side, or four; the lines of `sums` are asked for in the last steps, as operands push them out
constexpr int64_t kLateSteps = 16;

template <int Tiles>
inline void fetch_sums(float* sums, int64_t steps_left) {
  constexpr int64_t kFloats = Tiles * 256 / kLateSteps;
  if (steps_left <= kLateSteps) fetch<true>(sums + (kLateSteps - steps_left) * kFloats, kFloats * 4);
}

// RowTiles tiles of 16 rows, each `depth` tiles one after the other, times a panel's pairs of tiles w: sums f32 or i32
// [16 * RowTiles][32]. Unit::dot: the instruction. cold: the panel is in no cache
template <int RowTiles, typename Unit>
inline void multiply_tiles(const char* x, const char* w, int64_t depth, bool cold, float* sums) {
  tile_zero<0>(), tile_zero<1>();
  if constexpr (RowTiles == 2) tile_zero<2>(), tile_zero<3>();
  for (int64_t d = 0; d < depth; ++d, x += kTileBytes, w += 2 * kTileBytes) {
    tile_load_stream<4>(x, 64);
    tile_load<6>(w, 64), tile_load<7>(w + kTileBytes, 64);
    if (cold) fetch<false>(w + kAheadBytes, 2 * kTileBytes);
    fetch_sums<2 * RowTiles>(sums, depth - d);
    Unit::template dot<0, 4, 6>(), Unit::template dot<1, 4, 7>();
    if constexpr (RowTiles == 2) {
      tile_load_stream<5>(x + depth * kTileBytes, 64);
      Unit::template dot<2, 5, 6>(), Unit::template dot<3, 5, 7>();
    }
  }
  constexpr int64_t kBytes = kPanel * 4;
  tile_store<0>(sums, kBytes), tile_store<1>(sums + 16, kBytes);
  if constexpr (RowTiles == 2) tile_store<2>(sums + kSums / 2, kBytes), tile_store<3>(sums + kSums / 2 + 16, kBytes);
}

}  // namespace jaxpaged

#endif
