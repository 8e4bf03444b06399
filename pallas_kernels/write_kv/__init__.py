"""Writes a step's keys and values into the KV pool, in place where the pools are donated.

Slot = block * P + offset inside the block. Padding tokens name slot 0, in the null block, which nobody reads: what
lies there afterwards is undefined. Slots of one step are otherwise distinct.
"""

from __future__ import annotations

from types import ModuleType

import jax.numpy as jnp
from jax import Array

from pallas_kernels.backend import Backend


def _implementation(backend: Backend) -> ModuleType:
    match backend:
        case Backend.REFERENCE:
            from pallas_kernels.write_kv import reference as module
        case Backend.XLA:
            from pallas_kernels.write_kv import xla as module
        case Backend.TRITON:
            from pallas_kernels.write_kv import triton as module
    return module


def write_kv(
    k_pool: Array, v_pool: Array, k: Array, v: Array, slots: Array, *, backend: Backend, block_size: int
) -> tuple[Array, Array]:
    """The pools with k and v [T, K, D] written at slots i32[T].

    Pools: one layer's, as `pool_spec` of the backend lays them out; values are rounded to what the pool holds. Every
    slot must lie in the pool: that is for the caller to see to. Raises ValueError for shapes and dtypes that do not
    fit together.
    """
    if k.ndim != 3 or k.shape != v.shape or slots.shape != k.shape[:1]:
        raise ValueError(f"k {k.shape}, v {v.shape} and slots {slots.shape} must be [T, K, D], [T, K, D] and [T]")
    if slots.dtype != jnp.int32:
        raise ValueError(f"slots is {slots.dtype}: it must be int32")
    _, kv_heads, head_dim = k.shape
    v_shape = (*v_pool.shape[:1], kv_heads, block_size, head_dim)
    k_shape = (*v_shape[:2], head_dim, block_size) if backend == Backend.XLA else v_shape
    if k_pool.shape != k_shape or v_pool.shape != v_shape:
        raise ValueError(f"pools are {k_pool.shape} and {v_pool.shape}: {backend} wants {k_shape} and {v_shape}")
    if k_pool.dtype != v_pool.dtype:
        raise ValueError(f"pools are {k_pool.dtype} and {v_pool.dtype}: they must be of one dtype")
    return _implementation(backend).write(k_pool, v_pool, k, v, slots, block_size=block_size)


__all__ = ["write_kv"]
