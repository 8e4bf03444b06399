"""Rows with one token: a flat list of items (row, block), a few at a time, each added to its row in block order."""

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

# items a turn: the operands of 8 blocks stay in the second-level cache, 16 were 1.3 times slower, 4 no faster
TURN = 8


def decode_items(cu_q_lens: Array, kv_lens: Array, *, block_size: int, window: int | None) -> Array:
    """i32[2, S]: where each row's items end in the flat list, and what added to an item's index gives its block.

    Item t belongs to the first row r with ends[r] > t and reads column t + shift[r] of its block table. Rows that do
    not have exactly one token have no items; with a window the list starts at the oldest block it reaches.
    """
    one = (cu_q_lens[1:] - cu_q_lens[:-1]) == 1
    oldest = jnp.zeros_like(kv_lens) if window is None else jnp.maximum(kv_lens - window, 0)
    first = oldest // block_size
    counts = jnp.where(one & (kv_lens > 0), (kv_lens + (block_size - 1)) // block_size - first, 0)
    ends = jnp.cumsum(counts, dtype=jnp.int32)
    return jnp.stack([ends, first - (ends - counts)])


def attend_decode(
    queries: Array,
    pool: LayerPool,
    items: Array,
    work: AttentionWork,
    *,
    scores: Scores,
    sinks: Array | None,
) -> Array:
    """f32[S, K, G, D] for queries f32[T, K, G, D]; zeros for rows without items."""
    num_rows = work.kv_lens.shape[0]
    num_tokens, kv_heads, group, head_dim = queries.shape
    block_size = work.block_size
    queries = scores.prepare(queries)
    ends, shift = items[0], items[1]
    offset = jnp.arange(block_size, dtype=jnp.int32)
    token = jnp.minimum(work.cu_q_lens[:-1], num_tokens - 1)

    def take_turn(turn: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        tops, totals, accs = carry
        item = turn * TURN + jnp.arange(TURN, dtype=jnp.int32)
        row = jnp.sum(ends[None, :] <= item[:, None], axis=1, dtype=jnp.int32)  # S past the last item
        near = jnp.minimum(row, num_rows - 1)
        column = item + shift[near]
        block = jnp.where(row < num_rows, work.block_tables.at[near, column].get(mode="clip"), 0)
        stop = jnp.where(row < num_rows, work.kv_lens[near] - column * block_size, 0)
        seen = offset[None, :] < stop[:, None]
        if work.window is not None:
            seen &= offset[None, :] >= stop[:, None] - work.window
        keys = decode(pool.k.at[block].get(mode="promise_in_bounds"), pool.dtype)  # [TURN, K, D, P]
        values = decode(pool.v.at[block].get(mode="promise_in_bounds"), pool.dtype)  # [TURN, K, P, D]
        # a weight of 0 does not silence NaN in a slot that holds no token of this row
        values = jnp.where(seen[:, None, :, None], values, 0.0)

        query = queries[token[near]].reshape(-1, group, head_dim)
        products = batched_dot(query, keys.reshape(-1, head_dim, block_size))
        products = products.reshape(TURN, kv_heads, group, block_size)
        if pool.k_scale is not None:
            products *= pool.k_scale.at[block].get(mode="promise_in_bounds")[:, :, None]  # [TURN, K, 1, P]
        scored = scores.finish(products, seen[:, None, None, :])
        top = integer_top(jnp.max(scored, axis=3))
        weights = weights_below(scored, top)
        shares = weights
        if pool.v_scale is not None:
            v_scale = pool.v_scale.at[block].get(mode="promise_in_bounds")  # [TURN, K, P]
            shares = weights * jnp.where(seen[:, None], v_scale, 0.0)[:, :, None]
        acc = batched_dot(shares.reshape(-1, group, block_size), values.reshape(-1, block_size, head_dim))
        acc = acc.reshape(TURN, kv_heads, group, head_dim)

        higher = tops.at[row].max(top, mode="drop")
        rise, step = power_of_two(tops[near] - higher[near]), power_of_two(top - higher[near])
        # rows that stand in several items of the turn are raised once, to one value; the adds are then in order
        raised = totals.at[row].set(totals[near] * rise, mode="drop")
        totals = raised.at[row].add(jnp.sum(weights, axis=3) * step, mode="drop")
        raised = accs.at[row].set(accs[near] * rise[..., None], mode="drop")
        accs = raised.at[row].add(acc * step[..., None], mode="drop")
        return higher, totals, accs

    shape = (num_rows, kv_heads, group)
    start = (jnp.full(shape, LOWEST, jnp.int32), jnp.zeros(shape), jnp.zeros((*shape, head_dim)))
    turns = (ends[-1] + (TURN - 1)) // TURN
    tops, totals, accs = lax.fori_loop(0, turns, take_turn, start)
    return divide(accs, totals, tops, None if sinks is None else sinks[None])
