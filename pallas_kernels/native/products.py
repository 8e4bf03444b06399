"""Products of packed weights in C++, with what stands before and behind them in a layer.

Sums run in an order of the inputs alone, whatever M is: the bits of a row do not depend on the others.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pallas_kernels.int8 import check_ins
from pallas_kernels.native.library import library
from pallas_kernels.norm import Norm
from pallas_kernels.packed import PackedWeight
from pallas_kernels.packed_f32 import PackedF32Weight
from pallas_kernels.packed_int8 import PANEL, PackedInt8Weight

Packed = PackedWeight | PackedF32Weight | PackedInt8Weight
GATES = ("silu", "gelu_pytorch_tanh")
"""The activations that are there in C++."""


def multiply(
    x: Array,
    w: Packed,
    *,
    bias: Array | None = None,
    norm: Norm | None = None,
    residual: Array | None = None,
    count: Array | None = None,
) -> Array:
    """norm(x) [M, A] times w [B, A] transposed + bias + residual: f32[M, B]; x bfloat16 or float32.

    count: i32[1], rows from there on are padding and become zeros; None: none is.
    """
    kind, *weight = _operands(w)
    out = jax.ShapeDtypeStruct((x.shape[0], w.shape[0]), jnp.float32)
    call = jax.ffi.ffi_call(f"jaxpaged_linear_{kind}", out)
    return call(_rows(x), *weight, _norm(norm), _floats(bias), _floats(residual), _count(count), eps=_eps(norm))


def can_gate(gate_up: Packed, down: Packed, activation: str) -> bool:
    """Whether `multiply_gated` takes these weights [2 * F, E] and [E, F]."""
    return type(gate_up) is type(down) and down.shape[1] % PANEL == 0 and activation in GATES


def multiply_gated(
    x: Array,
    gate_up: Packed,
    down: Packed,
    *,
    activation: str,
    gate_up_bias: Array | None,
    down_bias: Array | None,
    norm: Norm | None,
    residual: Array | None,
    count: Array | None,
) -> Array:
    """What `mlp.mlp` says, in one call."""
    (kind, *first), (_, *second) = _operands(gate_up), _operands(down)
    out = jax.ShapeDtypeStruct((x.shape[0], down.shape[0]), jnp.float32)
    return jax.ffi.ffi_call(f"jaxpaged_mlp_{kind}", out)(
        _rows(x),
        _norm(norm),
        *first,
        _floats(gate_up_bias),
        *second,
        _floats(down_bias),
        _floats(residual),
        _count(count),
        eps=_eps(norm),
        ffn=np.int64(down.shape[1]),
        activation=activation,
    )


def _operands(w: Packed) -> tuple[str, Array, Array]:
    """The name of its kernels, its tiles or panels, and the scales of its outputs."""
    if isinstance(w, PackedInt8Weight):
        check_ins(w.ins)
        return library().kernel("int8"), w.tiles, w.scales
    if isinstance(w, PackedF32Weight):
        return library().kernel("float32"), w.panels, _floats(None)
    return library().kernel("bfloat16"), w.tiles, _floats(None)


def _rows(x: Array) -> Array:
    return x if x.dtype == jnp.bfloat16 else x.astype(jnp.float32)


def _norm(norm: Norm | None) -> Array:
    return _floats(None if norm is None else norm.weight)


def _eps(norm: Norm | None) -> np.float32:
    return np.float32(0 if norm is None else norm.eps)


def _count(count: Array | None) -> Array:
    return jnp.zeros((0,), jnp.int32) if count is None else count


def _floats(array: Array | None) -> Array:
    """An operand that may be left out, then without elements."""
    return jnp.zeros((0,), jnp.float32) if array is None else array.astype(jnp.float32)
