"""Writes a step's keys and values into the KV pool, in place where the pools are donated.

Slot = block * P + offset inside the block. Padding tokens name slot 0, in the null block, which nobody reads: what
lies there afterwards is undefined. Slots of one step are otherwise distinct.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jax import Array

from pallas_kernels.backend import Backend
from pallas_kernels.layer_pool import LayerPool, check_pool
from pallas_kernels.rotate import RopeTable, check_rope
from pallas_kernels.tuning import NO_TUNING, Table


def _implementation(backend: Backend, tuning: Table) -> Callable[..., LayerPool]:
    match backend:
        case Backend.REFERENCE:
            from pallas_kernels.write_kv.reference import write
        case Backend.XLA:
            from pallas_kernels.write_kv.xla import write
        case Backend.NATIVE:
            from pallas_kernels.write_kv.native import write
        case Backend.TRITON:
            from pallas_kernels.write_kv import triton

            return partial(triton.write, table=tuning)
    return write


def write_kv(
    pool: LayerPool,
    k: Array,
    v: Array,
    slots: Array,
    *,
    rope: RopeTable | None = None,
    backend: Backend,
    tuning: Table = NO_TUNING,
) -> LayerPool:
    """The pool with k and v [T, K, D] written at slots i32[T].

    pool: one layer's, as `pool_spec` of the backend lays it out. rope: rotate k by this table first (`rotate`); None:
    k is written as it is. Values are rounded or scaled to what the pool holds (`layer_pool.encode`). Every slot must
    lie in the pool: that is for the caller to see to. tuning: entries to prefer to the shipped ones. Raises ValueError
    for shapes and dtypes that do not fit together.
    """
    if k.ndim != 3 or k.shape != v.shape or slots.shape != k.shape[:1]:
        raise ValueError(f"k {k.shape}, v {v.shape} and slots {slots.shape} must be [T, K, D], [T, K, D] and [T]")
    if slots.dtype != jnp.int32:
        raise ValueError(f"slots is {slots.dtype}: it must be int32")
    num_tokens, kv_heads, head_dim = k.shape
    check_pool(pool, backend=backend, block_size=pool.block_size, head_dim=head_dim)
    if pool.kv_heads != kv_heads:
        raise ValueError(f"k has {kv_heads} heads: the pool has {pool.kv_heads}")
    if rope is not None:
        check_rope(rope, num_tokens=num_tokens, head_dim=head_dim)
    return _implementation(backend, tuning)(pool, k, v, slots, rope=rope)


__all__ = ["write_kv"]
