// Vectors of 16 numbers in GCC's own notation: one register with AVX-512, two with AVX2, whatever else there is.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace jaxpaged {

constexpr int kLanes = 16;

typedef float f32x16 __attribute__((vector_size(64)));
typedef float f32x8 __attribute__((vector_size(32)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x8 __attribute__((vector_size(32)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef uint16_t u16x8 __attribute__((vector_size(16)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef uint8_t u8x8 __attribute__((vector_size(8)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef int8_t i8x8 __attribute__((vector_size(8)));
typedef int32_t i32x8 __attribute__((vector_size(32)));

// the element types of a pool, each a type of its own
struct Bf16 {
  uint16_t bits;
};
struct Int8 {
  int8_t value;
};
struct Fp8 {  // e4m3fn
  uint8_t bits;
};

template <typename V, typename T>
inline V load_as(const T* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <typename V>
inline void store(float* to, V v) {
  std::memcpy(to, &v, sizeof v);
}

// 16 or 8 elements of a pool as float32
template <typename V>
struct Lanes;

template <>
struct Lanes<f32x16> {
  using U32 = u32x16;
  using I32 = i32x16;
  using U16 = u16x16;
  using U8 = u8x16;
  using I8 = i8x16;
};

template <>
struct Lanes<f32x8> {
  using U32 = u32x8;
  using I32 = i32x8;
  using U16 = u16x8;
  using U8 = u8x8;
  using I8 = i8x8;
};

template <typename V>
inline V load(const float* from) {
  return load_as<V>(from);
}

template <typename V>
inline V load(const Bf16* from) {
  using U32 = typename Lanes<V>::U32;
  return (V)(__builtin_convertvector(load_as<typename Lanes<V>::U16>(from), U32) << 16);
}

template <typename V>
inline V load(const Int8* from) {
  using I32 = typename Lanes<V>::I32;
  return __builtin_convertvector(__builtin_convertvector(load_as<typename Lanes<V>::I8>(from), I32), V);
}

template <typename V>
inline V load(const Fp8* from) {
  using U32 = typename Lanes<V>::U32;
  using I32 = typename Lanes<V>::I32;
  const U32 bits = __builtin_convertvector(load_as<typename Lanes<V>::U8>(from), U32);
  const U32 magnitude = bits & 0x7f;
  const V normal = (V)((magnitude << 20) + (120u << 23));
  const V subnormal = __builtin_convertvector((I32)magnitude, V) * 0x1p-9f;
  const V value = magnitude < 8 ? subnormal : normal;
  return (V)((U32)value | ((bits & 0x80) << 24));
}

// to nearest, ties to even; NaN stays NaN
inline void store_rounded(Bf16* to, f32x8 v) {
  const u32x8 bits = (u32x8)v;
  const u32x8 up = bits + 0x7fff + ((bits >> 16) & 1);
  const u32x8 kept = v == v ? up : bits | 0x00400000u;
  const u16x8 half = __builtin_convertvector(kept >> 16, u16x8);
  std::memcpy(to, &half, sizeof half);
}

// one number rounded likewise
inline uint16_t bits_of_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t up = bits + 0x7fff + ((bits >> 16) & 1);
  return (x == x ? up : bits | 0x00400000u) >> 16;
}

inline f32x16 all(float value) { return value - (f32x16){}; }

// i32x16 of 0..15
inline i32x16 iota() { return (i32x16){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }

// the lanes `width` further on, coming round
template <int width>
inline f32x16 turned(f32x16 v) {
  return __builtin_shuffle(v, (iota() + width) & (kLanes - 1));
}

inline float sum(f32x16 v) {
  v += turned<8>(v);
  v += turned<4>(v);
  v += turned<2>(v);
  v += turned<1>(v);
  return v[0];
}

inline f32x16 larger(f32x16 a, f32x16 b) { return a > b ? a : b; }

inline float largest(f32x16 v) {
  v = larger(v, turned<8>(v));
  v = larger(v, turned<4>(v));
  v = larger(v, turned<2>(v));
  return larger(v, turned<1>(v))[0];
}

// 2**exponent, exactly; 0 below the normal float32 range
inline float power_of_two(int exponent) {
  const int32_t bits = (exponent < -127 ? 0 : exponent > 127 ? 254 : exponent + 127) << 23;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// 2**(x - top) for an integer top: the same mantissa whatever the top is, so that sums move between tops exactly.
// x must lie within +-2**22; below the normal range the result is 0; NaN stays NaN. Error below 2e-7 (Cephes' exp2f).
inline f32x16 exp2_below(f32x16 x, int top) {
  const float magic = 12582912.0f;  // 1.5 * 2**23: adding it rounds to an integer
  const f32x16 shifted = x + magic;
  const i32x16 whole = (i32x16)shifted - 0x4b400000;
  const f32x16 rest = x - (shifted - magic);
  f32x16 p = rest * 1.535336188319500e-4f + 1.339887440266574e-3f;
  p = p * rest + 9.618437357674640e-3f;
  p = p * rest + 5.550332471162809e-2f;
  p = p * rest + 2.402264791363012e-1f;
  p = p * rest + 6.931472028550421e-1f;
  p = p * rest + 1.0f;
  i32x16 exponent = whole - (top - 127);
  exponent = exponent < 0 ? (i32x16){} : exponent;
  exponent = exponent > 254 ? (i32x16){} + 254 : exponent;
  return p * (f32x16)(exponent << 23);
}

// tanh(x) by exp2; absolute error below 3e-7
inline f32x16 tanh16(f32x16 x) {
  const f32x16 bounded = x > 10.0f ? all(10.0f) : x < -10.0f ? all(-10.0f) : x;
  return 1.0f - 2.0f / (exp2_below(bounded * 2.885390081777927f, 0) + 1.0f);
}

}  // namespace jaxpaged
