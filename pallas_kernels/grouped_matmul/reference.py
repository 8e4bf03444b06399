"""Defines correct: every row times every expert, then the row's own picked."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pallas_kernels.linear import linear


def multiply(x: Array, w: Array, group_sizes: Array) -> Array:
    """x [M, A] by w [X, B, A] -> f32[M, B]; rows past sum(group_sizes) are zeros."""
    ends = jnp.cumsum(group_sizes)
    expert = jnp.sum(ends[None, :] <= jnp.arange(x.shape[0])[:, None], axis=1)  # X for rows past the end
    out = jnp.zeros((x.shape[0], w.shape[1]), jnp.float32)
    for i in range(w.shape[0]):
        out = jnp.where((expert == i)[:, None], linear(x, lax.bitcast_convert_type(w[i], logical_dtype(w))), out)
    return out


def logical_dtype(w: Array) -> np.dtype:
    """What the weights are: uint16 arrays hold bfloat16 bits."""
    return jnp.dtype(jnp.bfloat16) if w.dtype == jnp.uint16 else w.dtype
