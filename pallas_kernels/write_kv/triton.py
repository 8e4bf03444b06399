"""Writes a step's keys and values into the pools, in place, in Pallas-Triton; interpreted on CPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.launch import current_platform, launch, next_power_of_two
from pallas_kernels.pool_spec import stored_as

TOKENS_PER_PROGRAM = 16


def _write_kernel(
    slots: Any, k_ref: Any, v_ref: Any, k_before: Any, v_before: Any, k_pool: Any, v_pool: Any, *, block_size: int
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
        plgpu.store(pool.at[block, kv_head, offset, dim], stored_as(tile, pool.dtype), mask=mask)


def write(
    k_pool: Array,
    v_pool: Array,
    k: Array,
    v: Array,
    slots: Array,
    *,
    block_size: int,
    platform: str | None = None,
) -> tuple[Array, Array]:
    """Pools [N, K, P, D] with k and v [T, K, D] written at slots i32[T]; tokens with slot 0 are skipped.

    In place where the pools are donated. platform: "cpu" (interpreted), "cuda", "rocm"; None: the default device's.
    Raises ValueError for a block size that is no power of two.
    """
    if block_size & (block_size - 1):
        raise ValueError(f"block_size is {block_size}: the Triton kernels need a power of two")
    num_tokens, kv_heads, _ = k.shape
    written = launch(
        partial(_write_kernel, block_size=block_size),
        [slots, k, v, k_pool, v_pool],
        [jax.ShapeDtypeStruct(p.shape, p.dtype) for p in (k_pool, v_pool)],
        name="write_kv",
        grid=(-(-num_tokens // TOKENS_PER_PROGRAM), kv_heads),
        platform=platform or current_platform(),
        num_warps=4,
        num_stages=1,
        aliases={3: 0, 4: 1},
    )
    return written[0], written[1]
