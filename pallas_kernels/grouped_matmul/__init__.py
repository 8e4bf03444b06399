"""One matrix product per expert over rows sorted by expert."""

from __future__ import annotations

from types import ModuleType

import jax.numpy as jnp
from jax import Array

from pallas_kernels.backend import Backend


def _implementation(backend: Backend) -> ModuleType:
    match backend:
        case Backend.REFERENCE:
            from pallas_kernels.grouped_matmul import reference as module
        case Backend.XLA | Backend.TRITON:  # no Pallas kernel: tiles of XLA's own dots on every platform
            from pallas_kernels.grouped_matmul import xla as module
    return module


def grouped_matmul(x: Array, w: Array, group_sizes: Array, *, backend: Backend) -> Array:
    """x [M, A] times the transposed weights of every row's expert, w [X, B, A]: f32[M, B].

    group_sizes i32[X]: how many rows of x belong to expert 0, 1, ...; rows past their sum come out as zeros, whatever
    they hold. x is rounded to w's dtype, sums are float32. w of uint16 holds bfloat16 bits: on CPU that spares a copy
    of all experts a call, which bfloat16 weights pay. Raises ValueError for shapes and dtypes that do not fit together.
    """
    if x.ndim != 2 or w.ndim != 3 or x.shape[1] != w.shape[2]:
        raise ValueError(f"x is {x.shape} and w is {w.shape}: they must be [M, A] and [X, B, A]")
    if group_sizes.shape != w.shape[:1] or group_sizes.dtype != jnp.int32:
        raise ValueError(f"group_sizes is {group_sizes.dtype}{group_sizes.shape}: it must be int32[{w.shape[0]}]")
    return _implementation(backend).multiply(x, w, group_sizes)


__all__ = ["grouped_matmul"]
