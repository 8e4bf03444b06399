"""Writes into pools K [N, K, D, P] and V [N, K, P, D], in place under donation.

One scatter each: loops of slice updates cost the same, and merging whole blocks cost more at every size measured.
"""

from __future__ import annotations

from jax import Array

from pallas_kernels.pool_spec import stored_as


def write(k_pool: Array, v_pool: Array, k: Array, v: Array, slots: Array, *, block_size: int) -> tuple[Array, Array]:
    """The pools with k and v [T, K, D] at slots i32[T]."""
    block, offset = slots // block_size, slots % block_size
    # for 16 bits this is in place only because stored_as makes bits of the values before the scatter sees them
    return (
        k_pool.at[block, :, :, offset].set(stored_as(k, k_pool.dtype), mode="promise_in_bounds"),
        v_pool.at[block, :, offset].set(stored_as(v, v_pool.dtype), mode="promise_in_bounds"),
    )
