"""Normalisation of rows: by the root mean square (Zhang and Sennrich, 2019), by itself or as what a product does to its
rows first, and by mean and variance (Ba, Kiros and Hinton, 2016)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.target import on_cpu


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """weight: f32[A]. eps: what is added to the mean of squares."""

    weight: Array
    eps: float = field(metadata={"static": True})


def rms_norm(x: Array, norm: Norm) -> Array:
    """x f32[..., A] / sqrt(mean(x ** 2) + eps) * weight, in float32; a row's bits do not depend on the others."""
    x = x * lax.rsqrt(_row_means(jnp.square(x)) + norm.eps)
    return x * jnp.broadcast_to(norm.weight, x.shape)


def layer_norm(x: Array, weight: Array, bias: Array | None, *, eps: float) -> Array:
    """(x - mean) / sqrt(variance + eps) * weight + bias of x f32[..., A], in float32; bits as in `rms_norm`.

    weight, bias: f32 that broadcast to x.
    """
    x = x - _row_means(x)
    x = x * lax.rsqrt(_row_means(jnp.square(x)) + eps) * jnp.broadcast_to(weight, x.shape)
    return x if bias is None else x + jnp.broadcast_to(bias, x.shape)


def _row_means(x: Array) -> Array:
    """Mean over the last dimension of x f32[..., A], kept as 1: f32[..., 1].

    XLA's CPU compiler changes the order of a reduction with the size of the whole array, never that of a dot: so there
    the sum is a dot with ones, eight columns of them (with one, the dot is turned back into a reduction).
    """
    if not on_cpu():
        return jnp.mean(x, axis=-1, keepdims=True)
    size = x.shape[-1]
    ones = jnp.ones((8, size), x.dtype)
    sums = lax.dot_general(
        x.reshape(-1, size),
        ones,
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )[:, :1]  # [M, 1]
    return sums.reshape(*x.shape[:-1], 1) / size
