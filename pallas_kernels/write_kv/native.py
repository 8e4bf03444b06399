"""Rotates, quantises and writes in one pass in C++: pools K [N, K, D, P] and V [N, K, P, D]."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import Array

from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.native.library import obstacle
from pallas_kernels.rotate import RopeTable


def write(pool: LayerPool, k: Array, v: Array, slots: Array, *, rope: RopeTable | None) -> LayerPool:
    """The pool with k and v [T, K, D] at slots i32[T]; k rotated first where a table is given.

    In place where the pool is donated; padding tokens write nothing. Raises ValueError for a pool that the native
    backend does not serve.
    """
    if reason := obstacle(head_dim=pool.head_dim, block_size=pool.block_size, dtype=pool.dtype):
        raise ValueError(f"backend is native: {reason}")
    nothing = jnp.zeros((0,), jnp.float32)
    before = (
        pool.k,
        pool.v,
        nothing if pool.k_scale is None else pool.k_scale,
        nothing if pool.v_scale is None else pool.v_scale,
    )
    cos, sin = (nothing, nothing) if rope is None else rope
    call = jax.ffi.ffi_call(
        f"jaxpaged_write_{pool.dtype}",
        tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in before),
        input_output_aliases={i: i for i, array in enumerate(before) if array.size},
    )
    k, v = k.astype(jnp.float32), v.astype(jnp.float32)
    k_pool, v_pool, k_scale, v_scale = call(*before, k, v, slots, cos, sin)
    scales = {} if pool.k_scale is None else {"k_scale": k_scale, "v_scale": v_scale}
    return replace(pool, k=k_pool, v=v_pool, **scales)
