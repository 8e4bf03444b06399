"""The one dot of a dense layer: every weight of a model meets its activations here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.int8 import Int8Weight
from pallas_kernels.int8 import multiply as multiply_int8
from pallas_kernels.native.products import Packed, multiply
from pallas_kernels.norm import Norm, rms_norm
from pallas_kernels.target import on_cpu

Weight = Array | Int8Weight | Packed
"""What `linear` multiplies with."""

# a dot of fewer rows in 8 or 16 bits leaves XLA's fast CPU path and widens the whole weight in memory
_LEAST_ROWS = 4


def linear(
    x: Array,
    w: Weight,
    bias: Array | None = None,
    *,
    norm: Norm | None = None,
    residual: Array | None = None,
    count: Array | None = None,
) -> Array:
    """norm(x) [M, A] times w [B, A] transposed, plus bias [B], plus residual f32[M, B]: f32[M, B].

    A packed w gives the plain one's bits in int8, and in bfloat16 on AMX, but for a norm; elsewhere sums have an order
    of their own (`packed`, `packed_f32`). What the product takes is rounded to w's dtype, products are summed in
    float32; float32 weights give exact float32 on every platform. With int8 weights it is quantised too on a CPU, and
    rounded to the weight's other dtype elsewhere (`int8`).
    count: i32[1], how many rows are no padding: what the others give may be anything finite; they cost a packed w
    nothing.
    Raises ValueError for shapes that do not fit together.
    """
    check_shapes(x, w, bias, norm=norm, residual=residual)
    if isinstance(w, Packed):
        return multiply(x, w, bias=bias, norm=norm, residual=residual, count=count)
    out = _product(x if norm is None else rms_norm(x, norm), w)
    if bias is not None:
        out = out + bias.astype(jnp.float32)[None, :]
    return out if residual is None else out + residual


def check_shapes(
    x: Array | jax.ShapeDtypeStruct,
    w: Weight,
    bias: Array | None,
    *,
    norm: Norm | None = None,
    residual: Array | None = None,
) -> None:
    """Raise ValueError naming the first operand of `linear` that does not fit the others."""
    if x.ndim != 2 or len(w.shape) != 2 or x.shape[1] != w.shape[1]:
        raise ValueError(f"x is {x.shape} and w is {w.shape}: they must be [M, A] and [B, A]")
    if bias is not None and bias.shape != w.shape[:1]:
        raise ValueError(f"bias is {bias.shape}: it must be [{w.shape[0]}]")
    if norm is not None and norm.weight.shape != x.shape[1:]:
        raise ValueError(f"norm's weight is {norm.weight.shape}: it must be [{x.shape[1]}]")
    if residual is not None and residual.shape != (x.shape[0], w.shape[0]):
        raise ValueError(f"residual is {residual.shape}: it must be [{x.shape[0]}, {w.shape[0]}]")


def _product(x: Array, w: Array | Int8Weight) -> Array:
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
