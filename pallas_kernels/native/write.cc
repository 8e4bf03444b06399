// write_kv: rotates, quantises and writes a step's keys and values in one pass, in place. A token belongs to one thread,
// so that its bits depend on nothing else.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "parallel.h"
#include "rotate.h"
#include "vectors.h"
#include "xla/ffi/api/ffi.h"

namespace jaxpaged {
namespace {

namespace ffi = xla::ffi;

constexpr int64_t kTokens = 32;  // of a chunk of work

inline float stored(float value, float) { return value; }

inline Bf16 stored(float value, Bf16) { return {bits_of_bfloat16(value)}; }

inline Int8 stored(float value, Int8) { return {static_cast<int8_t>(std::nearbyint(value))}; }

// to nearest, ties to even; at most 448 in magnitude
inline Fp8 stored(float value, Fp8) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = (bits >> 24) & 0x80;
  bits &= 0x7fffffffu;
  uint32_t magnitude;
  if (bits < (121u << 23)) {  // below 2**-6: steps of 2**-9
    float small;
    std::memcpy(&small, &bits, sizeof small);
    magnitude = static_cast<uint32_t>(std::nearbyint(small * 512.0f));
  } else {
    magnitude = ((bits + 0x7ffff + ((bits >> 20) & 1)) >> 20) - (120u << 3);
  }
  return {static_cast<uint8_t>(sign | magnitude)};
}

template <typename S>
constexpr float kLargest = 0.0f;  // of a scaled type
template <>
constexpr float kLargest<Int8> = 127.0f;
template <>
constexpr float kLargest<Fp8> = 448.0f;

// a head's numbers over their scale; zeros where there is no finite quotient. Returns the scale.
template <typename S>
float divide(float* values, int64_t dim) {
  float top = 0.0f;
  bool finite = true;
  for (int64_t d = 0; d < dim; ++d) {
    const float magnitude = std::fabs(values[d]);
    finite = finite && magnitude <= std::numeric_limits<float>::max();
    top = std::max(top, magnitude);
  }
  // the reciprocal, as XLA has it
  const float scale = finite ? top * (1.0f / kLargest<S>) : std::numeric_limits<float>::quiet_NaN();
  const float factor = scale > 0.0f ? 1.0f / scale : 0.0f;
  for (int64_t d = 0; d < dim; ++d) {
    const float quotient = values[d] * factor;
    values[d] = std::fabs(quotient) <= std::numeric_limits<float>::max() ? quotient : 0.0f;
  }
  return scale;
}

template <typename S>
struct Write {
  int64_t tokens, kv_heads, head_dim, block_size, blocks;
  const float* k;  // [T, K, D]
  const float* v;
  const int32_t* slots;
  RopeTable rope;
  S* k_pool;  // [N, K, D, P]
  S* v_pool;  // [N, K, P, D]
  float* k_scale;  // [N, K, P], of a scaled type
  float* v_scale;

  void token(int64_t t, float* head) const {
    const int64_t slot = slots[t];
    if (slot <= 0 || slot >= blocks * block_size) return;  // padding
    const int64_t block = slot / block_size, offset = slot % block_size;
    for (int64_t h = 0; h < kv_heads; ++h) {
      const int64_t place = (block * kv_heads + h) * block_size;
      rope.rotate(t, k + (t * kv_heads + h) * head_dim, head_dim, head);
      if constexpr (kLargest<S> > 0.0f) k_scale[place + offset] = divide<S>(head, head_dim);
      S* to = k_pool + place * head_dim + offset;
      for (int64_t d = 0; d < head_dim; ++d) to[d * block_size] = stored(head[d], S{});
      std::copy_n(v + (t * kv_heads + h) * head_dim, head_dim, head);
      if constexpr (kLargest<S> > 0.0f) v_scale[place + offset] = divide<S>(head, head_dim);
      to = v_pool + (place + offset) * head_dim;
      for (int64_t d = 0; d < head_dim; ++d) to[d] = stored(head[d], S{});
    }
  }
};

template <typename S>
ffi::Error write(ffi::ThreadPool pool, ffi::AnyBuffer, ffi::AnyBuffer, ffi::Buffer<ffi::F32>, ffi::Buffer<ffi::F32>,
                 ffi::Buffer<ffi::F32> k, ffi::Buffer<ffi::F32> v, ffi::Buffer<ffi::S32> slots, ffi::Buffer<ffi::F32> cos,
                 ffi::Buffer<ffi::F32> sin, ffi::Result<ffi::AnyBuffer> k_pool, ffi::Result<ffi::AnyBuffer> v_pool,
                 ffi::Result<ffi::Buffer<ffi::F32>> k_scale, ffi::Result<ffi::Buffer<ffi::F32>> v_scale) {
  const auto shape = k.dimensions(), pool_shape = v_pool->dimensions();
  if (shape.size() != 3 || pool_shape.size() != 4) {
    return ffi::Error::InvalidArgument("k must be [T, K, D], the pool of values [N, K, P, D]");
  }
  const int64_t pairs = shape[0] ? static_cast<int64_t>(cos.element_count()) / shape[0] : 0;
  const Write<S> all{shape[0], shape[1], shape[2], pool_shape[2], pool_shape[0], k.typed_data(), v.typed_data(),
                     slots.typed_data(), {cos.typed_data(), sin.typed_data(), pairs},
                     static_cast<S*>(k_pool->untyped_data()), static_cast<S*>(v_pool->untyped_data()),
                     k_scale->typed_data(), v_scale->typed_data()};
  parallel_for(pool, (all.tokens + kTokens - 1) / kTokens, [&all](int64_t i) {
    static thread_local std::vector<float> head;
    head.resize(all.head_dim);
    for (int64_t t = i * kTokens; t < std::min(all.tokens, (i + 1) * kTokens); ++t) all.token(t, head.data());
  });
  return ffi::Error::Success();
}

}  // namespace

#pragma GCC visibility push(default)

#define JAXPAGED_WRITE(name, type)                                                \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, write<type>,                                \
                                ffi::Ffi::Bind()                                  \
                                    .Ctx<ffi::ThreadPool>()                       \
                                    .Arg<ffi::AnyBuffer>() /* the pool before */  \
                                    .Arg<ffi::AnyBuffer>()                        \
                                    .Arg<ffi::Buffer<ffi::F32>>()                 \
                                    .Arg<ffi::Buffer<ffi::F32>>()                 \
                                    .Arg<ffi::Buffer<ffi::F32>>()                 \
                                    .Arg<ffi::Buffer<ffi::F32>>()                 \
                                    .Arg<ffi::Buffer<ffi::S32>>()                 \
                                    .Arg<ffi::Buffer<ffi::F32>>()                 \
                                    .Arg<ffi::Buffer<ffi::F32>>()                 \
                                    .Ret<ffi::AnyBuffer>() /* the same memory */  \
                                    .Ret<ffi::AnyBuffer>()                        \
                                    .Ret<ffi::Buffer<ffi::F32>>()                 \
                                    .Ret<ffi::Buffer<ffi::F32>>())

JAXPAGED_WRITE(jaxpaged_write_float32, float);
JAXPAGED_WRITE(jaxpaged_write_bfloat16, Bf16);
JAXPAGED_WRITE(jaxpaged_write_int8, Int8);
JAXPAGED_WRITE(jaxpaged_write_float8_e4m3fn, Fp8);

#pragma GCC visibility pop

}  // namespace jaxpaged
