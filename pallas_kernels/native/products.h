// Every kind of product, `void` where the compiler has no instructions for it, and which of them this CPU takes.
#pragma once

#include <type_traits>

#include "product_bfloat16.h"
#include "product_int8.h"
#include "vector_kinds.h"

namespace jaxpaged {

using VectorFloat32 = vector::Product<vector::Float32>;

#ifdef JAXPAGED_VECTOR_BFLOAT16
using VectorBfloat16 = vector::Product<vector::Bfloat16>;
#else
using VectorBfloat16 = void;
#endif

#ifdef JAXPAGED_VECTOR_INT8
using VectorInt8 = vector::Product<vector::Int8>;
#else
using VectorInt8 = void;
#endif

// 2: the AMX unit, 1: vectors, 0: neither
template <typename OnAmx, typename InVectors>
int unit_of() {
#ifdef JAXPAGED_AMX
  if (!std::is_void_v<OnAmx> && amx_granted()) return 2;
#endif
  return std::is_void_v<InVectors> ? 0 : 1;
}

constexpr char kMisfit[] = "the weight must be packed in panels of 32 outputs, as this CPU reads them";

}  // namespace jaxpaged
