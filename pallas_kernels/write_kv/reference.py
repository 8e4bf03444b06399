"""Defines correct: one indexed store per token. Pools are [N, K, P, D]."""

from __future__ import annotations

from dataclasses import replace

from jax import Array

from pallas_kernels.layer_pool import LayerPool, encode
from pallas_kernels.rotate import RopeTable, rotate


def write(pool: LayerPool, k: Array, v: Array, slots: Array, *, rope: RopeTable | None) -> LayerPool:
    """The pool with k and v [T, K, D] at slots i32[T]; k rotated first where a table is given."""
    block, offset = slots // pool.block_size, slots % pool.block_size
    (k, k_scale), (v, v_scale) = (
        encode(values, pool.dtype, pool.v.dtype) for values in (k if rope is None else rotate(k, rope), v)
    )
    arrays = {
        "k": (pool.k, k),
        "v": (pool.v, v),
        "k_scale": (pool.k_scale, k_scale),
        "v_scale": (pool.v_scale, v_scale),
    }
    written = {
        name: array.at[block, :, offset].set(values)
        for name, (array, values) in arrays.items()
        if array is not None and values is not None
    }
    return replace(pool, **written)
