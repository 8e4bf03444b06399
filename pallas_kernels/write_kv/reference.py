"""Defines correct: one indexed store per token. Pools are [N, K, P, D]."""

from __future__ import annotations

from jax import Array

from pallas_kernels.pool_spec import stored_as


def write(k_pool: Array, v_pool: Array, k: Array, v: Array, slots: Array, *, block_size: int) -> tuple[Array, Array]:
    """The pools with k and v [T, K, D] at slots i32[T]."""
    block, offset = slots // block_size, slots % block_size
    return (
        k_pool.at[block, :, offset].set(stored_as(k, k_pool.dtype)),
        v_pool.at[block, :, offset].set(stored_as(v, v_pool.dtype)),
    )
