"""Defines correct: every row times every expert, then the row's own picked."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pallas_kernels.int8 import Int8Weight
from pallas_kernels.linear import Weight, linear


def multiply(x: Array, w: Array | Int8Weight, group_sizes: Array) -> Array:
    """x [M, A] by w [X, B, A] -> f32[M, B]; rows past sum(group_sizes) are zeros."""
    ends = jnp.cumsum(group_sizes)
    expert = jnp.sum(ends[None, :] <= jnp.arange(x.shape[0])[:, None], axis=1)  # X for rows past the end
    out = jnp.zeros((x.shape[0], w.shape[1]), jnp.float32)
    for i in range(w.shape[0]):
        out = jnp.where((expert == i)[:, None], linear(x, _expert(w, i)), out)
    return out


def _expert(w: Array | Int8Weight, i: int) -> Weight:
    if isinstance(w, Int8Weight):
        return Int8Weight(values=w.values[i], scales=w.scales[i], dtype=w.dtype)
    return lax.bitcast_convert_type(w[i], logical_dtype(w))


def logical_dtype(w: Array | Int8Weight) -> np.dtype:
    """What the weights are, or are widened to: uint16 arrays hold bfloat16 bits."""
    return jnp.dtype(jnp.bfloat16) if w.dtype == jnp.uint16 else jnp.dtype(w.dtype)
