// What attention in bfloat16 multiplies on the AMX unit.
#pragma once

#include "amx.h"
#include "attend_step.h"

#ifdef JAXPAGED_AMX

namespace jaxpaged {

struct AmxSteps {
  using Unit = Tiles;

  // products of NR x 16 query rows and the step's 64 keys, into s [NR * 16, kStep]
  template <int NR>
  static void dot_step(const uint16_t* q, const uint16_t* keys, int64_t depth, int64_t, float* s) {
    for (int half = 0; half < 2; ++half) {
      tile_zero<0>(), tile_zero<1>();
      if constexpr (NR == 2) tile_zero<2>(), tile_zero<3>();
      for (int64_t d = 0; d < depth; ++d) {
        const uint16_t* b = keys + (d * kStepSubs + half * 2) * 512;
        tile_load<4>(q + d * 512, 64);
        tile_load<6>(b, 64);
        tile_load<7>(b + 512, 64);
        tile_dot<0, 4, 6>(), tile_dot<1, 4, 7>();
        if constexpr (NR == 2) {
          tile_load<5>(q + (depth + d) * 512, 64);
          tile_dot<2, 5, 6>(), tile_dot<3, 5, 7>();
        }
      }
      tile_store<0>(s + half * 32, kStep * 4), tile_store<1>(s + half * 32 + 16, kStep * 4);
      if constexpr (NR == 2) {
        float* below = s + kTileRows * kStep + half * 32;
        tile_store<2>(below, kStep * 4), tile_store<3>(below + 16, kStep * 4);
      }
    }
  }

  // acc [NR * 16, columns * 16] += weights [NR * 16, kStep] times the step's values
  template <int NR>
  static void weigh_step(const uint16_t* w, const uint16_t* values, int64_t columns, int64_t, float* acc) {
    const int64_t row = columns * kLanes, row_bytes = row * 4;
    for (int64_t c = 0; c < columns; c += 2) {
      const bool pair = c + 1 < columns;
      float* low = acc + c * kLanes;
      float* below = low + kTileRows * row;
      tile_load<0>(low, row_bytes);
      if (pair) tile_load<1>(low + kLanes, row_bytes);
      if constexpr (NR == 2) {
        tile_load<2>(below, row_bytes);
        if (pair) tile_load<3>(below + kLanes, row_bytes);
      }
      for (int half = 0; half < 2; ++half) {
        const uint16_t* b = values + (half * columns + c) * 512;
        tile_load<4>(w + half * kStepDepth, kStep * 2);
        tile_load<6>(b, 64);
        tile_dot<0, 4, 6>();
        if constexpr (NR == 2) tile_load<5>(w + kTileRows * kStep + half * kStepDepth, kStep * 2), tile_dot<2, 5, 6>();
        if (pair) {
          tile_load<7>(b + 512, 64);
          tile_dot<1, 4, 7>();
          if constexpr (NR == 2) tile_dot<3, 5, 7>();
        }
      }
      tile_store<0>(low, row_bytes);
      if (pair) tile_store<1>(low + kLanes, row_bytes);
      if constexpr (NR == 2) {
        tile_store<2>(below, row_bytes);
        if (pair) tile_store<3>(below + kLanes, row_bytes);
      }
    }
  }
};

}  // namespace jaxpaged

#endif
