// Rows of activations as a product reads them: float32, normalised on the way where a norm is given.
#pragma once

#include <cmath>
#include <cstdint>

#include "vectors.h"

namespace jaxpaged {

struct Rows {
  const void* x;      // [count, size], float32 or bfloat16
  bool half;          // bfloat16
  int64_t count, size;
  const float* norm;  // [size]: a row becomes row / sqrt(mean(row ** 2) + eps) * norm; null: it stays as it is
  float eps;

  // row i: where it lies, or in memory [size]
  const float* read(int64_t i, float* memory) const {
    const float* row = half ? widened(static_cast<const Bf16*>(x) + i * size, memory) : static_cast<const float*>(x) + i * size;
    return norm ? normalised(row, memory) : row;
  }

 private:
  const float* widened(const Bf16* from, float* to) const {
    const int64_t whole = size / kLanes * kLanes;
    for (int64_t i = 0; i < whole; i += kLanes) store(to + i, load<f32x16>(from + i));
    for (int64_t i = whole; i < size; ++i) {
      const uint32_t bits = static_cast<uint32_t>(from[i].bits) << 16;
      std::memcpy(to + i, &bits, sizeof bits);
    }
    return to;
  }

  // the sum runs in 32 lanes: its order is that of the row alone
  const float* normalised(const float* from, float* to) const {
    f32x16 even = {}, odd = {};
    int64_t i = 0;
    for (; i + 2 * kLanes <= size; i += 2 * kLanes) {
      const f32x16 a = load<f32x16>(from + i), b = load<f32x16>(from + i + kLanes);
      even += a * a;
      odd += b * b;
    }
    float squares = sum(even + odd);
    for (; i < size; ++i) squares += from[i] * from[i];
    const float factor = 1.0f / std::sqrt(squares / static_cast<float>(size) + eps);
    const int64_t whole = size / kLanes * kLanes;
    for (i = 0; i < whole; i += kLanes) store(to + i, load<f32x16>(from + i) * factor * load<f32x16>(norm + i));
    for (; i < size; ++i) to[i] = from[i] * factor * norm[i];
    return to;
  }
};

}  // namespace jaxpaged
