// linear: out [M, B] = norm(x) [M, A] times a packed weight [B, A] transposed + bias + residual; zeros in padding rows.

#include <type_traits>

#include "products.h"

namespace jaxpaged {
namespace {

namespace ffi = xla::ffi;

template <typename Product>
ffi::Error linear(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer w, Floats scales, Floats norm, Floats bias,
                  Floats residual, Count real, ffi::Result<Floats> out, float eps) {
  if constexpr (!std::is_void_v<Product>) {
    const int64_t count = real_rows(real, x.dimensions()[0]), ins = x.dimensions()[1], outs = out->dimensions()[1];
    if (Product::fits(outs, ins, w.size_bytes(), scales.element_count())) {
      static thread_local std::vector<char> memory;
      const Product product(w.untyped_data(), scales.typed_data(), outs, ins, count,
                            scratch(memory, Product::space(count, ins)));
      const bool half = x.element_type() == ffi::BF16;
      pack_rows(pool, Rows{x.untyped_data(), half, count, ins, given(norm), eps}, product);
      const Output output{out->typed_data(), given(bias), given(residual), outs};
      multiply_rows<1>(pool, product, count, (outs + kPanel - 1) / kPanel, output);
      output.clear(count, x.dimensions()[0]);
      return ffi::Error::Success();
    }
  }
  return ffi::Error::InvalidArgument(kMisfit);
}

}  // namespace

#pragma GCC visibility push(default)

// what multiplies packed weights here: 2 the AMX unit, 1 vectors, 0 nothing
extern "C" int jaxpaged_bfloat16() { return unit_of<ProductBfloat16, VectorBfloat16>(); }
extern "C" int jaxpaged_int8() { return unit_of<ProductInt8, VectorInt8>(); }

#define JAXPAGED_LINEAR(name, Product)                                     \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxpaged_linear_##name, linear<Product>,   \
                                ffi::Ffi::Bind()                            \
                                    .Ctx<ffi::ThreadPool>()                 \
                                    .Arg<ffi::AnyBuffer>()                  \
                                    .Arg<ffi::AnyBuffer>()                  \
                                    .Arg<Floats>()                          \
                                    .Arg<Floats>()                          \
                                    .Arg<Floats>()                          \
                                    .Arg<Floats>()                          \
                                    .Arg<Count>()                           \
                                    .Ret<Floats>()                          \
                                    .Attr<float>("eps"))

JAXPAGED_LINEAR(float32, VectorFloat32);
JAXPAGED_LINEAR(bfloat16_amx, ProductBfloat16);
JAXPAGED_LINEAR(bfloat16_vector, VectorBfloat16);
JAXPAGED_LINEAR(int8_amx, ProductInt8);
JAXPAGED_LINEAR(int8_vector, VectorInt8);

#pragma GCC visibility pop

}  // namespace jaxpaged
