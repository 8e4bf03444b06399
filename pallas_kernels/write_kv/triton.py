"""Writes a step's keys and values into the pools, in place, in Pallas-Triton; interpreted on CPU."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.launch import launch, next_power_of_two
from pallas_kernels.layer_pool import LayerPool, encode, is_scaled
from pallas_kernels.rotate import RopeTable, rotate

TOKENS_PER_PROGRAM = 16


def _write_kernel(
    slots: Any,
    k_ref: Any,
    v_ref: Any,
    k_before: Any,
    v_before: Any,
    k_pool: Any,
    v_pool: Any,
    *,
    block_size: int,
    dtype: str,
) -> None:
    del k_before, v_before  # the same memory as the results
    num_tokens, _, head_dim = k_ref.shape
    kv_head = pl.program_id(1)
    token = pl.program_id(0) * jnp.int32(TOKENS_PER_PROGRAM) + lax.iota(jnp.int32, TOKENS_PER_PROGRAM)
    dim = lax.iota(jnp.int32, next_power_of_two(head_dim))[None, :]
    slot = plgpu.load(slots.at[token], mask=token < jnp.int32(num_tokens), other=0)
    # slot 0 belongs to the null block: padding tokens name it, and nobody reads it
    mask = (slot > jnp.int32(0))[:, None] & (dim < jnp.int32(head_dim))
    block = lax.shift_right_logical(slot, jnp.int32(block_size.bit_length() - 1))[:, None]
    offset = (slot & jnp.int32(block_size - 1))[:, None]
    for values, pool in ((k_ref, k_pool), (v_ref, v_pool)):
        tile = plgpu.load(values.at[token[:, None], kv_head, dim], mask=mask, other=0)
        plgpu.store(pool.at[block, kv_head, offset, dim], encode(tile, dtype, pool.dtype)[0], mask=mask)


def write(pool: LayerPool, k: Array, v: Array, slots: Array, *, rope: RopeTable | None) -> LayerPool:
    """Pool [N, K, P, D] with k and v [T, K, D] written at slots i32[T]; tokens with slot 0 are skipped.

    In place where the pool is donated. Raises ValueError for a block size that is no power of two.
    """
    block_size = pool.block_size
    if block_size & (block_size - 1):
        raise ValueError(f"block_size is {block_size}: the Triton kernels need a power of two")
    if is_scaled(pool.dtype):
        raise NotImplementedError(f"no Triton writer for {pool.dtype} yet")
    k = k if rope is None else rotate(k, rope)
    num_tokens, kv_heads, _ = k.shape
    written = launch(
        partial(_write_kernel, block_size=block_size, dtype=pool.dtype),
        [slots, k, v, pool.k, pool.v],
        [jax.ShapeDtypeStruct(p.shape, p.dtype) for p in (pool.k, pool.v)],
        name="write_kv",
        grid=(-(-num_tokens // TOKENS_PER_PROGRAM), kv_heads),
        num_warps=4,
        num_stages=1,
        aliases={3: 0, 4: 1},
    )
    return replace(pool, k=written[0], v=written[1])
