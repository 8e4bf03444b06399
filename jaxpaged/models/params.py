"""A model's parameters: each declares its shape, logical axes and initial distribution here, once.

Modules are built abstract (shapes, no arrays): weights come by `decoder.unflatten`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxpaged.models.form import WeightForm
from pallas_kernels.int8 import Int8Weight
from pallas_kernels.linear import Weight, linear
from pallas_kernels.norm import Norm
from pallas_kernels.packed import PackedWeight, can_pack, packed_shape
from pallas_kernels.packed_f32 import PackedF32Weight, can_pack_f32, packed_f32_shape
from pallas_kernels.packed_int8 import PackedInt8Weight, packed_int8_shape
from pallas_kernels.target import on_cpu

Axes = tuple[str | None, ...]


def declare(shape: tuple[int, ...], axes: Axes, dtype: str, *, init: str = "normal") -> nnx.Param:
    """A parameter without its array. axes: the logical axis of every dimension, None where it is never sharded.

    init: "normal" (variance 1 / last dimension), "ones" or "zeros", for models without weights; "scale": those of the
    int8 parameter of the same name without "_scale".
    """
    return _declare(jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)), shape, axes, dtype, init=init)


def declare_matrix(
    shape: tuple[int, ...], axes: Axes, form: WeightForm, *, sliced: bool = False
) -> tuple[nnx.Param, nnx.Param | None]:
    """A parameter [*outs, A] of products, and the scales [*outs] of a quantised one.

    sliced: read piece by piece in a loop, and never packed; on CPU such bfloat16 arrays are held as the uint16 of their
    bits, since XLA would copy them whole.
    """
    outs, ins = math.prod(shape[:-1]), shape[-1]
    if form.quantization:
        packed = form.packed and not sliced
        stored = (packed_int8_shape(outs, ins), jnp.uint32) if packed else (shape, jnp.int8)
        scale = declare(shape[:-1], axes[:-1], "float32", init="scale")
        return _declare(jax.ShapeDtypeStruct(*stored), shape, axes, "int8", packed=packed), scale
    if form.packed and not sliced and (packed := _packed(outs, ins, form.dtype)) is not None:
        return _declare(packed, shape, axes, form.dtype, packed=True), None
    as_bits = sliced and form.dtype == "bfloat16" and on_cpu()
    plain = jax.ShapeDtypeStruct(shape, jnp.uint16 if as_bits else jnp.dtype(form.dtype))
    return _declare(plain, shape, axes, form.dtype), None


def _packed(outs: int, ins: int, dtype: str) -> jax.ShapeDtypeStruct | None:
    """What holds a matrix in its packed form, None where it has none."""
    if dtype == "float32":
        return jax.ShapeDtypeStruct(packed_f32_shape(outs, ins), jnp.float32) if can_pack_f32(outs) else None
    return jax.ShapeDtypeStruct(packed_shape(outs, ins), jnp.uint32) if can_pack(outs, ins, dtype) else None


def _declare(
    stored: jax.ShapeDtypeStruct,
    shape: tuple[int, ...],
    axes: Axes,
    dtype: str,
    *,
    init: str = "normal",
    packed: bool = False,
) -> nnx.Param:
    assert len(shape) == len(axes), f"{shape} has another rank than {axes}"
    return nnx.Param(stored, axes=axes, init=init, logical=dtype, declared=shape, packed=packed)


def matrix(param: nnx.Param, scale: nnx.Param | None, form: WeightForm) -> Weight:
    """A parameter [*outs, A] and its scales as `linear` takes them."""
    ins = param.declared[-1]
    if scale is None:
        if not param.packed:
            return param[...].reshape(-1, ins)
        return PackedF32Weight(panels=param[...]) if form.dtype == "float32" else PackedWeight(tiles=param[...])
    scales = scale[...].reshape(-1)
    if param.packed:
        return PackedInt8Weight(tiles=param[...], scales=scales, ins=ins)
    return Int8Weight(values=param[...].reshape(-1, ins), scales=scales, dtype=form.dtype)


def expert_matrices(param: nnx.Param, scale: nnx.Param | None, form: WeightForm) -> Array | Int8Weight:
    """A parameter [X, *outs, A] and its scales as `grouped_matmul` takes them."""
    experts, *_, ins = param.declared
    values = param[...].reshape(experts, -1, ins)
    if scale is None:
        return values
    return Int8Weight(values=values, scales=scale[...].reshape(experts, -1), dtype=form.dtype)


class Linear(nnx.Module):
    """x [T, A] -> f32[T, *outs]. The weight [*outs, A] says by its shape what was fused into it.

    axes: of outs. ins: A and its axis.
    """

    def __init__(
        self,
        outs: tuple[int, ...],
        axes: Axes,
        ins: tuple[int, str | None],
        *,
        bias: bool,
        form: WeightForm,
    ) -> None:
        self.outs, self.form = outs, form
        self.weight, self.weight_scale = declare_matrix((*outs, ins[0]), (*axes, ins[1]), form)
        self.bias = declare(outs, axes, "float32", init="zeros") if bias else None

    def __call__(self, x: Array, *, norm: Norm | None = None, residual: Array | None = None) -> Array:
        out = linear(x, self.matrix(), self.flat_bias(), norm=norm, residual=residual)
        return out.reshape(-1, *self.outs)

    def matrix(self) -> Weight:
        """The weight [B, A], where B counts all outs."""
        return matrix(self.weight, self.weight_scale, self.form)

    def flat_bias(self) -> Array | None:
        """The bias [B]."""
        return None if self.bias is None else self.bias[...].reshape(-1)
