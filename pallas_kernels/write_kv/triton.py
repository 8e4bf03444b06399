"""Rotates, quantises and writes a step's keys and values in one pass, in Pallas-Triton; interpreted on CPU.

Queries are not rotated here: their rotation fuses with the slice that XLA has to make of them anyway, while the keys'
would cost an array of its own between that slice and this kernel.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.launch import launch, next_power_of_two
from pallas_kernels.layer_pool import LayerPool, as_bits, is_scaled, quantise, scale_for
from pallas_kernels.rotate import RopeTable
from pallas_kernels.target import current_target
from pallas_kernels.tuning import NO_TUNING, Table
from pallas_kernels.write_kv.tuning import Tuning, tuning_for

Piece = tuple[int, Array]
"""The first dimension of some neighbouring ones of a head, and a tile of them f32[tokens, dims padded]."""


def _write_kernel(
    slots: Any,
    k_ref: Any,
    v_ref: Any,
    *refs: Any,
    block_size: int,
    dtype: str,
    token_tile: int,
) -> None:
    """refs: cos and sin where k is rotated, the pool's arrays before, and the same memory as results."""
    count = 4 if is_scaled(dtype) else 2
    angles, pool = refs[: -2 * count], refs[-count:]
    num_tokens, _, head_dim = k_ref.shape
    kv_head = pl.program_id(1)
    token = pl.program_id(0) * jnp.int32(token_tile) + lax.iota(jnp.int32, token_tile)
    slot = plgpu.load(slots.at[token], mask=token < jnp.int32(num_tokens), other=0)
    # slot 0 belongs to the null block: padding tokens name it, and nobody reads it
    live = slot > jnp.int32(0)
    block = lax.shift_right_logical(slot, jnp.int32(block_size.bit_length() - 1))
    offset = slot & jnp.int32(block_size - 1)

    def load(ref: Any, *where: Array, first: int, dims: int) -> Array:
        dim, mask = _dims(dims, live)
        values = plgpu.load(ref.at[(*where, jnp.int32(first) + dim)], mask=mask, other=0)
        return values.astype(jnp.float32)

    def head(ref: Any, first: int, dims: int) -> Piece:
        return first, load(ref, token[:, None], kv_head, first=first, dims=dims)

    def store(which: int, pieces: list[Piece]) -> None:
        scale = None
        if is_scaled(dtype):
            scale = scale_for(_largest(pieces), dtype)
            plgpu.store(pool[2 + which].at[block, kv_head, offset], scale, mask=live)
        ref = pool[which]
        ends = [*(first for first, _ in pieces[1:]), head_dim]
        for (first, values), end in zip(pieces, ends, strict=True):
            dim, mask = _dims(end - first, live)
            stored = values.astype(jnp.dtype(dtype)) if scale is None else quantise(values, scale[:, None], dtype)
            where = ref.at[block[:, None], kv_head, offset[:, None], jnp.int32(first) + dim]
            plgpu.store(where, as_bits(stored, ref.dtype), mask=mask)

    if angles:
        half = angles[0].shape[1]
        cos, sin = (load(ref, token[:, None], first=0, dims=half) for ref in angles)
        (_, low), (_, high) = head(k_ref, 0, half), head(k_ref, half, half)
        keys = [(0, low * cos - high * sin), (half, high * cos + low * sin)]
        if 2 * half < head_dim:  # partial rotary: the rest stays as it is
            keys.append(head(k_ref, 2 * half, head_dim - 2 * half))
    else:
        keys = [head(k_ref, 0, head_dim)]
    store(0, keys)
    store(1, [head(v_ref, 0, head_dim)])


def _dims(dims: int, live: Array) -> tuple[Array, Array]:
    """Indices [1, dims padded] of some dimensions, and the mask [tokens, dims padded] of what there is of them."""
    padded = next_power_of_two(dims)
    dim = lax.iota(jnp.int32, padded)[None, :]
    return dim, jnp.broadcast_to(live[:, None], (live.shape[0], padded)) & (dim < jnp.int32(dims))


def _largest(pieces: list[Piece]) -> Array:
    """The largest magnitude f32[tokens] of a head, infinity where it holds NaN: a maximum alone may drop that."""
    tops = [jnp.max(jnp.where(jnp.isnan(x), jnp.float32(jnp.inf), jnp.abs(x)), axis=1) for _, x in pieces]
    top = tops[0]
    for other in tops[1:]:
        top = jnp.maximum(top, other)
    return top


def write(
    pool: LayerPool,
    k: Array,
    v: Array,
    slots: Array,
    *,
    rope: RopeTable | None,
    table: Table = NO_TUNING,
) -> LayerPool:
    """Pool [N, K, P, D] with k, rotated, and v [T, K, D] written at slots i32[T]; tokens with slot 0 are skipped.

    In place where the pool is donated. table: tuning that goes before the shipped one. Raises ValueError for a block
    size that is no power of two.
    """
    num_tokens, _, head_dim = k.shape
    tuning = tuning_for(current_target(), tokens=num_tokens, head_dim=head_dim, dtype=pool.dtype, table=table)
    return write_tuned(pool, k, v, slots, rope=rope, tuning=tuning)


def write_tuned(
    pool: LayerPool, k: Array, v: Array, slots: Array, *, rope: RopeTable | None, tuning: Tuning
) -> LayerPool:
    """`write` with a given tuning."""
    block_size = pool.block_size
    if block_size & (block_size - 1):
        raise ValueError(f"block_size is {block_size}: the Triton kernels need a power of two")
    num_tokens, kv_heads, _ = k.shape
    arrays, form = jax.tree.flatten(pool)  # k, v and, where the dtype is scaled, their scales
    inputs = [slots, k, v, *(rope or ())]
    written = launch(
        partial(_write_kernel, block_size=block_size, dtype=pool.dtype, token_tile=tuning.token_tile),
        [*inputs, *arrays],
        [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays],
        name="write_kv",
        grid=(-(-num_tokens // tuning.token_tile), kv_heads),
        num_warps=tuning.num_warps,
        num_stages=1,
        aliases={len(inputs) + i: i for i in range(len(arrays))},
    )
    return jax.tree.unflatten(form, written)
