"""Writes into pools K [N, K, D, P] and V [N, K, P, D], in place under donation.

One scatter each: loops of slice updates cost the same, and merging whole blocks cost more at every size measured.
"""

from __future__ import annotations

from dataclasses import replace

from jax import Array

from pallas_kernels.layer_pool import LayerPool, encode
from pallas_kernels.rotate import RopeTable, rotate

_TRUSTED = "promise_in_bounds"


def write(pool: LayerPool, k: Array, v: Array, slots: Array, *, rope: RopeTable | None) -> LayerPool:
    """The pool with k and v [T, K, D] at slots i32[T]; k rotated first where a table is given."""
    block, offset = slots // pool.block_size, slots % pool.block_size
    k = k if rope is None else rotate(k, rope)
    # in place for 16 and 8 bits only because encode makes bits of the values before the scatter sees them
    (k, k_scale), (v, v_scale) = (encode(values, pool.dtype, pool.v.dtype) for values in (k, v))
    pool = replace(
        pool,
        k=pool.k.at[block, :, :, offset].set(k, mode=_TRUSTED),
        v=pool.v.at[block, :, offset].set(v, mode=_TRUSTED),
    )
    if pool.k_scale is None or pool.v_scale is None:
        return pool
    return replace(
        pool,
        k_scale=pool.k_scale.at[block, :, offset].set(k_scale, mode=_TRUSTED),
        v_scale=pool.v_scale.at[block, :, offset].set(v_scale, mode=_TRUSTED),
    )
