// linear: out [M, B] = norm(x) [M, A] times a packed weight [B, A] transposed + bias + residual.

#include <type_traits>

#include "product.h"
#include "product_bfloat16.h"
#include "product_float32.h"
#include "product_int8.h"

namespace jaxpaged {
namespace {

namespace ffi = xla::ffi;

template <typename Product>
ffi::Error linear(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer w, Floats scales, Floats norm, Floats bias,
                  Floats residual, ffi::Result<Floats> out, float eps) {
  if constexpr (!std::is_void_v<Product>) {
    const int64_t count = x.dimensions()[0], ins = x.dimensions()[1], outs = out->dimensions()[1];
    if (Product::fits(outs, ins, w.size_bytes(), scales.element_count())) {
      static thread_local std::vector<char> memory;
      const Product product(w.untyped_data(), scales.typed_data(), outs, ins, count,
                            scratch(memory, Product::space(count, ins)));
      const bool half = x.element_type() == ffi::BF16;
      pack_rows(pool, Rows{x.untyped_data(), half, count, ins, given(norm), eps}, product);
      multiply_rows<1>(pool, product, count, (outs + kPanel - 1) / kPanel,
                       Output{out->typed_data(), given(bias), given(residual), outs});
      return ffi::Error::Success();
    }
  }
  return ffi::Error::InvalidArgument("the weight is not packed for this CPU's AMX unit");
}

ffi::Error linear_float32(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer w, Floats, Floats norm, Floats bias,
                          Floats residual, ffi::Result<Floats> out, float eps) {
  const int64_t count = x.dimensions()[0], ins = x.dimensions()[1], outs = out->dimensions()[1];
  if (outs % kPanel != 0 || static_cast<int64_t>(w.size_bytes()) != ins * outs * 4) {
    return ffi::Error::InvalidArgument("packed float32 weights are panels of 32 outputs");
  }
  const bool half = x.element_type() == ffi::BF16;
  float32::multiply_all(pool, Rows{x.untyped_data(), half, count, ins, given(norm), eps},
                        static_cast<const float*>(w.untyped_data()),
                        Output{out->typed_data(), given(bias), given(residual), outs});
  return ffi::Error::Success();
}

}  // namespace

#pragma GCC visibility push(default)

// whether packed int8 weights are multiplied here
extern "C" int jaxpaged_int8() {
#ifdef JAXPAGED_INT8
  return amx_granted() ? 1 : 0;
#else
  return 0;
#endif
}

#define JAXPAGED_LINEAR(name, function)                                     \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxpaged_linear_##name, function,          \
                                ffi::Ffi::Bind()                            \
                                    .Ctx<ffi::ThreadPool>()                 \
                                    .Arg<ffi::AnyBuffer>()                  \
                                    .Arg<ffi::AnyBuffer>()                  \
                                    .Arg<Floats>()                          \
                                    .Arg<Floats>()                          \
                                    .Arg<Floats>()                          \
                                    .Arg<Floats>()                          \
                                    .Ret<Floats>()                          \
                                    .Attr<float>("eps"))

JAXPAGED_LINEAR(float32, linear_float32);
JAXPAGED_LINEAR(bfloat16, linear<ProductBfloat16>);
JAXPAGED_LINEAR(int8, linear<ProductInt8>);

#pragma GCC visibility pop

}  // namespace jaxpaged
