"""One matrix product per expert over rows sorted by expert."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jax import Array

from pallas_kernels.backend import Backend
from pallas_kernels.int8 import Int8Weight, check_ins
from pallas_kernels.tuning import NO_TUNING, Table


def _implementation(backend: Backend, tuning: Table) -> Callable[[Array, Array | Int8Weight, Array], Array]:
    match backend:
        case Backend.REFERENCE:
            from pallas_kernels.grouped_matmul.reference import multiply
        case Backend.XLA | Backend.NATIVE:
            from pallas_kernels.grouped_matmul.xla import multiply
        case Backend.TRITON:
            from pallas_kernels.grouped_matmul import triton

            return partial(triton.multiply, table=tuning)
    return multiply


def grouped_matmul(
    x: Array, w: Array | Int8Weight, group_sizes: Array, *, backend: Backend, tuning: Table = NO_TUNING
) -> Array:
    """x [M, A] times the transposed weights of every row's expert, w [X, B, A]: f32[M, B].

    group_sizes i32[X]: how many rows of x belong to expert 0, 1, ...; rows past their sum come out as zeros, whatever
    they hold. x is rounded to w's dtype, sums are float32. w of uint16 holds bfloat16 bits: on CPU that spares a copy
    of all experts a call, which bfloat16 weights pay. Int8 weights are multiplied as `linear` does it, but for Triton,
    which widens them wherever it runs. tuning: entries to prefer to the shipped ones. Raises ValueError for shapes and
    dtypes that do not fit together.
    """
    if x.ndim != 2 or len(w.shape) != 3 or x.shape[1] != w.shape[2]:
        raise ValueError(f"x is {x.shape} and w is {w.shape}: they must be [M, A] and [X, B, A]")
    if group_sizes.shape != w.shape[:1] or group_sizes.dtype != jnp.int32:
        raise ValueError(f"group_sizes is {group_sizes.dtype}{group_sizes.shape}: it must be int32[{w.shape[0]}]")
    if isinstance(w, Int8Weight):
        check_ins(w.shape[-1])
    return _implementation(backend, tuning)(x, w, group_sizes)


__all__ = ["grouped_matmul"]
