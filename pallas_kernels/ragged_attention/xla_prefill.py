"""Rows with several tokens: tiles of query tokens of one row, each walking the blocks that it sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.layer_pool import LayerPool, decode
from pallas_kernels.ragged_attention.xla_softmax import (
    LOWEST,
    Scores,
    batched_dot,
    divide,
    integer_top,
    power_of_two,
    weights_below,
)

if TYPE_CHECKING:
    from pallas_kernels.ragged_attention import AttentionWork

TILE = 32
"""Query tokens of a tile: prompts cut at multiples of it give the same bits as whole ones. 64 and 128 were 1.3 to 1.8
times slower on a CPU without AMX, 16 no faster."""


def prefill_tiles(cu_q_lens: Array, kv_lens: Array, *, num_tokens: int) -> tuple[Array, Array]:
    """i32[4, B]: row, first token, position of that token and kv_len of every tile; and the count of tiles, i32[].

    Tiles cover the rows with more than one token, in order; what stands past the count is not read. B is the most
    that any split of T tokens into such rows can need.
    """
    num_rows = kv_lens.shape[0]
    most = (num_tokens + min(num_rows, num_tokens // 2) * (TILE - 1)) // TILE
    lens = cu_q_lens[1:] - cu_q_lens[:-1]
    counts = jnp.where(lens > 1, (lens + (TILE - 1)) // TILE, 0)
    ends = jnp.cumsum(counts, dtype=jnp.int32)
    tile = jnp.arange(most, dtype=jnp.int32)
    row = jnp.minimum(jnp.sum(ends[None, :] <= tile[:, None], axis=1, dtype=jnp.int32), num_rows - 1)
    offset = (tile - (ends - counts)[row]) * TILE
    return jnp.stack([row, cu_q_lens[row] + offset, kv_lens[row] - lens[row] + offset, kv_lens[row]]), ends[-1]


def attend_prefill(
    queries: Array,
    pool: LayerPool,
    tiles: tuple[Array, Array],
    work: AttentionWork,
    *,
    scores: Scores,
    sinks: Array | None,
) -> Array:
    """f32[T, K, G, D] for queries f32[T, K, G, D]. Zeros for tokens of other rows."""
    num_tokens = queries.shape[0]
    # [K, G, T + TILE, D]: a tile's slice is then the rows of one matrix per kv head
    padding = ((0, 0), (0, 0), (0, TILE), (0, 0))
    queries = jnp.pad(scores.prepare(queries).transpose(1, 2, 0, 3), padding)
    tile_map, count = tiles

    def take_tile(index: Array, out: Array) -> Array:
        row, token, position, kv_len = lax.dynamic_index_in_dim(tile_map, index, axis=1, keepdims=False)
        query = lax.dynamic_slice_in_dim(queries, token, TILE, axis=2)
        table = work.block_tables[row]
        result = _attend_tile(query, pool, table, (position, kv_len), work, scores=scores, sinks=sinks)
        # ascending: the zeros of a tile's tail are overwritten by the row they belong to
        return lax.dynamic_update_slice_in_dim(out, result, token, axis=2)

    out = lax.fori_loop(0, count, take_tile, jnp.zeros_like(queries))
    return out[:, :, :num_tokens].transpose(2, 0, 1, 3)


def _attend_tile(
    query: Array,
    pool: LayerPool,
    table: Array,
    place: tuple[Array, Array],
    work: AttentionWork,
    *,
    scores: Scores,
    sinks: Array | None,
) -> Array:
    """f32[K, G, TILE, D] for prepared queries of that shape, zeros past the end of the row.

    place: position of the first query, kv_len of their row.
    """
    kv_heads, group, _, head_dim = query.shape
    block_size = work.block_size
    position, kv_len = place
    positions = position + jnp.arange(TILE, dtype=jnp.int32)
    oldest = jnp.zeros_like(position) if work.window is None else jnp.maximum(position - (work.window - 1), 0)
    stop = jnp.minimum(position + TILE, kv_len)
    rows = query.reshape(kv_heads, group * TILE, head_dim)

    def walk(column: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        tops, totals, accs = carry
        block = table.at[column].get(mode="clip")
        key = column * block_size + jnp.arange(block_size, dtype=jnp.int32)
        held = (key >= oldest) & (key < kv_len)
        seen = (key[None, :] <= positions[:, None]) & held[None, :]  # [TILE, P]
        if work.window is not None:
            seen &= key[None, :] > positions[:, None] - work.window
        keys = decode(lax.dynamic_index_in_dim(pool.k, block, keepdims=False), pool.dtype)  # [K, D, P]
        values = decode(lax.dynamic_index_in_dim(pool.v, block, keepdims=False), pool.dtype)  # [K, P, D]
        # a weight of 0 does not silence NaN in a slot that holds no token of this row
        values = jnp.where(held[None, :, None], values, 0.0)

        products = batched_dot(rows, keys).reshape(kv_heads, group, TILE, block_size)
        if pool.k_scale is not None:
            products *= lax.dynamic_index_in_dim(pool.k_scale, block, keepdims=False)[:, None, None]  # [K, 1, 1, P]
        scored = scores.finish(products, seen[None, None])
        higher = jnp.maximum(tops, integer_top(jnp.max(scored, axis=3)))
        weights = weights_below(scored, higher)
        rise = power_of_two(tops - higher)
        shares = weights
        if pool.v_scale is not None:
            v_scale = lax.dynamic_index_in_dim(pool.v_scale, block, keepdims=False)  # [K, P]
            shares = weights * jnp.where(held[None], v_scale, 0.0)[:, None, None]
        acc = batched_dot(shares.reshape(kv_heads, group * TILE, block_size), values).reshape(query.shape)
        return higher, totals * rise + jnp.sum(weights, axis=3), accs * rise[..., None] + acc

    shape = query.shape[:-1]
    start = (jnp.full(shape, LOWEST, jnp.int32), jnp.zeros(shape), jnp.zeros(query.shape))
    blocks = (oldest // block_size, (stop + (block_size - 1)) // block_size)
    tops, totals, accs = lax.fori_loop(*blocks, walk, start)
    out = divide(accs, totals, tops, None if sinks is None else sinks[:, :, None])
    return jnp.where((positions < kv_len)[None, None, :, None], out, 0.0)
