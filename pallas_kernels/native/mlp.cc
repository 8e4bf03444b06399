// mlp: out [M, E] = activation(gate) * up, times a packed weight down [E, F] transposed + bias + residual, where gate and up
// are the halves of norm(x) [M, E] times a packed weight [2 * F, E] transposed + bias; zeros in padding rows. What lies
// between stays here.

#include <string_view>
#include <type_traits>

#include "activation.h"
#include "products.h"

namespace jaxpaged {
namespace {

namespace ffi = xla::ffi;

// what the two halves of a block of gates become: rows of the second product, or numbers [M, F] that are yet to be packed
template <typename Activation, typename Product>
struct Gated {
  const float* bias;  // [2 * F] or null
  int64_t ffn;
  Product down;
  float* numbers;

  void operator()(int64_t row, int64_t rows, int64_t panel, const float* sums, int64_t apart) const {
    const int64_t first = panel * kPanel;
    for (int64_t r = 0; r < rows; ++r) {
      const float* gate = sums + r * kPanel;
      const f32x16 low = hidden(gate, gate + apart, first);
      const f32x16 high = hidden(gate + kLanes, gate + apart + kLanes, first + kLanes);
      if constexpr (Product::kQuantises) {
        store(numbers + (row + r) * ffn + first, low);
        store(numbers + (row + r) * ffn + first + kLanes, high);
      } else {
        down.put(row + r, panel, low, high);
      }
    }
  }

  f32x16 hidden(const float* gate, const float* up, int64_t at) const {
    f32x16 a = load<f32x16>(gate), b = load<f32x16>(up);
    if (bias) a += load<f32x16>(bias + at), b += load<f32x16>(bias + ffn + at);
    return Activation::of(a) * b;
  }
};

template <typename Activation, typename Product>
void run(ffi::ThreadPool& pool, const Rows& rows, const Product& gate_up, const Product& down, const float* bias,
         int64_t ffn, const Output& output) {
  static thread_local std::vector<float> memory;
  float* numbers = Product::kQuantises ? scratch(memory, rows.count * ffn) : nullptr;
  pack_rows(pool, rows, gate_up);
  multiply_rows<2>(pool, gate_up, rows.count, ffn / kPanel, Gated<Activation, Product>{bias, ffn, down, numbers});
  if constexpr (Product::kQuantises) {
    pack_rows(pool, Rows{numbers, false, rows.count, ffn, nullptr, 0}, down);
  } else {
    for (int64_t row = rows.count; row % 16; ++row) down.clear(row);
  }
  multiply_rows<1>(pool, down, rows.count, (output.outs + kPanel - 1) / kPanel, output);
}

template <typename Product>
ffi::Error mlp(ffi::ThreadPool pool, ffi::AnyBuffer x, Floats norm, ffi::AnyBuffer w, Floats scales, Floats bias,
               ffi::AnyBuffer down_w, Floats down_scales, Floats down_bias, Floats residual, Count real,
               ffi::Result<Floats> out, float eps, int64_t ffn, std::string_view activation) {
  if constexpr (!std::is_void_v<Product>) {
    const int64_t count = real_rows(real, x.dimensions()[0]), ins = x.dimensions()[1], outs = out->dimensions()[1];
    if (ffn % kPanel == 0 && Product::fits(2 * ffn, ins, w.size_bytes(), scales.element_count()) &&
        Product::fits(outs, ffn, down_w.size_bytes(), down_scales.element_count())) {
      static thread_local std::vector<char> memory, down_memory;
      const Product gate_up(w.untyped_data(), scales.typed_data(), 2 * ffn, ins, count,
                            scratch(memory, Product::space(count, ins)));
      const Product down(down_w.untyped_data(), down_scales.typed_data(), outs, ffn, count,
                         scratch(down_memory, Product::space(count, ffn)));
      const Rows rows{x.untyped_data(), x.element_type() == ffi::BF16, count, ins, given(norm), eps};
      const Output output{out->typed_data(), given(down_bias), given(residual), outs};
      if (activation == "silu") {
        run<Silu>(pool, rows, gate_up, down, given(bias), ffn, output);
      } else if (activation == "gelu_pytorch_tanh") {
        run<GeluTanh>(pool, rows, gate_up, down, given(bias), ffn, output);
      } else {
        return ffi::Error::InvalidArgument("no such activation");
      }
      output.clear(count, x.dimensions()[0]);
      return ffi::Error::Success();
    }
  }
  return ffi::Error::InvalidArgument(kMisfit);
}

}  // namespace

#pragma GCC visibility push(default)

#define JAXPAGED_MLP(name, Product)                                   \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxpaged_mlp_##name, mlp<Product>,    \
                                ffi::Ffi::Bind()                      \
                                    .Ctx<ffi::ThreadPool>()           \
                                    .Arg<ffi::AnyBuffer>()            \
                                    .Arg<Floats>()                    \
                                    .Arg<ffi::AnyBuffer>()            \
                                    .Arg<Floats>()                    \
                                    .Arg<Floats>()                    \
                                    .Arg<ffi::AnyBuffer>()            \
                                    .Arg<Floats>()                    \
                                    .Arg<Floats>()                    \
                                    .Arg<Floats>()                    \
                                    .Arg<Count>()                     \
                                    .Ret<Floats>()                    \
                                    .Attr<float>("eps")               \
                                    .Attr<int64_t>("ffn")             \
                                    .Attr<std::string_view>("activation"))

JAXPAGED_MLP(float32, VectorFloat32);
JAXPAGED_MLP(bfloat16_amx, ProductBfloat16);
JAXPAGED_MLP(bfloat16_vector, VectorBfloat16);
JAXPAGED_MLP(int8_amx, ProductInt8);
JAXPAGED_MLP(int8_vector, VectorInt8);

#pragma GCC visibility pop

}  // namespace jaxpaged
