// Rotary position embedding of one head, and rounding to bfloat16.
#pragma once

#include <cstdint>
#include <cstring>

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

// the upper half of the float32 nearest to x, ties to even; NaN stays NaN
inline uint16_t bits_of_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t up = bits + 0x7fff + ((bits >> 16) & 1);
  return (x == x ? up : bits | 0x00400000u) >> 16;
}

inline float rounded_to_bfloat16(float x) {
  const uint32_t bits = static_cast<uint32_t>(bits_of_bfloat16(x)) << 16;
  float rounded;
  std::memcpy(&rounded, &bits, sizeof rounded);
  return rounded;
}

}  // namespace jaxpaged
