"""The one dot of a dense layer: every weight of a model meets its activations here."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.int8 import Int8Weight
from pallas_kernels.int8 import multiply as multiply_int8
from pallas_kernels.packed import PackedWeight, multiply
from pallas_kernels.packed_f32 import PackedF32Weight, multiply_f32
from pallas_kernels.packed_int8 import PackedInt8Weight, multiply_packed
from pallas_kernels.target import on_cpu

Weight = Array | PackedWeight | PackedF32Weight | Int8Weight | PackedInt8Weight
"""What `linear` multiplies with."""

# a dot of fewer rows in 8 or 16 bits leaves XLA's fast CPU path and widens the whole weight in memory
_LEAST_ROWS = 4


def linear(x: Array, w: Weight, bias: Array | None = None) -> Array:
    """x [M, A] times w [B, A] transposed, plus bias [B]: f32[M, B].

    A packed w gives the bits of the plain one (`packed`), but in float32, where sums have an order of their own
    (`packed_f32`). x is rounded to w's dtype, products are summed in float32;
    float32 weights give exact float32 on every platform. With int8 weights x is quantised too on a CPU, and rounded to
    the weight's other dtype elsewhere (`int8`).
    Raises ValueError for shapes that do not fit together.
    """
    if x.ndim != 2 or len(w.shape) != 2 or x.shape[1] != w.shape[1]:
        raise ValueError(f"x is {x.shape} and w is {w.shape}: they must be [M, A] and [B, A]")
    if bias is not None and bias.shape != w.shape[:1]:
        raise ValueError(f"bias is {bias.shape}: it must be [{w.shape[0]}]")
    out = _product(x, w)
    return out if bias is None else out + bias.astype(jnp.float32)[None, :]


def _product(x: Array, w: Weight) -> Array:
    if isinstance(w, PackedWeight):
        return multiply(x, w)
    if isinstance(w, PackedF32Weight):
        return multiply_f32(x, w)
    if isinstance(w, PackedInt8Weight):
        return multiply_packed(x, w)
    if isinstance(w, Int8Weight):
        if on_cpu():
            return multiply_int8(x, w)
        return dot(x.astype(w.dtype), w.values.astype(w.dtype)) * w.scales[None, :]
    x = x.astype(w.dtype)
    num_rows = x.shape[0]
    missing = _LEAST_ROWS - num_rows
    if missing > 0 and w.dtype.itemsize < 4 and on_cpu():
        x = jnp.pad(x, ((0, missing), (0, 0)))
    return dot(x, w)[:num_rows]


def dot(x: Array, w: Array) -> Array:
    """x [M, A] times w [B, A] transposed, both of one dtype: f32[M, B], without the padding of `linear`."""
    precision = lax.Precision.HIGHEST if w.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(x, w, (((1,), (1,)), ((), ())), precision=precision, preferred_element_type=jnp.float32)


def row_means(x: Array) -> Array:
    """Mean over the last dimension of x f32[..., A], kept as 1: f32[..., 1]; bits do not depend on the other rows.

    XLA's CPU compiler changes the order of a reduction with the size of the whole array, never that of a dot: so there
    the sum is a dot with ones, eight columns of them (with one, the dot is turned back into a reduction).
    """
    if not on_cpu():
        return jnp.mean(x, axis=-1, keepdims=True)
    size = x.shape[-1]
    sums = dot(x.reshape(-1, size), jnp.ones((8, size), x.dtype))[:, :1]  # [M, 1]
    return sums.reshape(*x.shape[:-1], 1) / size
