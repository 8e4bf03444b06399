// The sizes of attention in bfloat16: a step of keys, and tiles of numbers.
#pragma once

#include "attend_vector.h"

namespace jaxpaged {

constexpr int kStep = 64;  // keys of a step: positions from one multiple of it to the next
constexpr int kStepSubs = kStep / kLanes;
constexpr int kTileRows = 16, kStepDepth = 32;  // of a tile: rows, and bfloat16 numbers in one

}  // namespace jaxpaged
