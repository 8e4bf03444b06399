// The loop that products on the AMX unit share: tiles of 1024 bytes, 16 rows of 32 bfloat16 or of 64 int8.
#pragma once

#include "amx.h"
#include "product.h"

#ifdef JAXPAGED_AMX

namespace jaxpaged {

constexpr int64_t kTileBytes = 1024;

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
