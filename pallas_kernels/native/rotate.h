// Rotary position embedding of one head.
#pragma once

#include <cstdint>

namespace jaxpaged {

// cos and sin [T, pairs] of every token's angles; no pairs: nothing is rotated
struct RopeTable {
  const float* cos;
  const float* sin;
  int64_t pairs;

  // from and to: a head of token `token`; i goes with i + pairs, the numbers behind both stay
  void rotate(int64_t token, const float* from, int64_t dim, float* to) const {
    const float* c = cos + token * pairs;
    const float* s = sin + token * pairs;
    for (int64_t i = 0; i < pairs; ++i) {
      const float low = from[i], high = from[i + pairs];
      to[i] = low * c[i] - high * s[i];
      to[i + pairs] = high * c[i] + low * s[i];
    }
    for (int64_t i = 2 * pairs; i < dim; ++i) to[i] = from[i];
  }
};

}  // namespace jaxpaged
