"""The fast pure-JAX path, laid out for XLA's CPU compiler: pools K [N, K, D, P] and V [N, K, P, D], any P.

The cost of a step follows the sum of its rows' lengths. Rows with one token are cut into items of one block each
(`xla_decode`), rows with more into tiles of query tokens (`xla_prefill`); both loops run as often as the data asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.ragged_attention.xla_decode import attend_decode, decode_items
from pallas_kernels.ragged_attention.xla_prefill import attend_prefill, prefill_tiles
from pallas_kernels.ragged_attention.xla_softmax import Scores

if TYPE_CHECKING:
    from pallas_kernels.ragged_attention import AttentionWork


def make_work(
    cu_q_lens: Array, kv_lens: Array, block_tables: Array, *, num_tokens: int, block_size: int, window: int | None
) -> tuple[Array, ...]:
    """The decode map i32[2, S]; in a mixed step (T > S) then the prefill map i32[4, B] of B tiles and their count."""
    items = decode_items(cu_q_lens, kv_lens, block_size=block_size, window=window)
    if num_tokens == block_tables.shape[0]:
        return (items,)
    return (items, *prefill_tiles(cu_q_lens, kv_lens, num_tokens=num_tokens))


def attend(
    q: Array,
    pool: LayerPool,
    work: AttentionWork,
    *,
    scale: float,
    softcap: float | None,
    sinks: Array | None,
) -> Array:
    """Attention of q [T, H, D] -> [T, H, D] in q's dtype; zeros for padding tokens.

    Bits of a row do not depend on its neighbours, its place or the bucket; those of a prefill row not on where its
    prompt was cut, so long as that was at multiples of `xla_prefill.TILE`.
    """
    num_tokens, _, head_dim = q.shape
    kv_heads = pool.kv_heads
    queries = q.astype(jnp.float32).reshape(num_tokens, kv_heads, -1, head_dim)
    scores = Scores(scale=scale, softcap=softcap)
    if sinks is not None:
        sinks = sinks.astype(jnp.float32).reshape(kv_heads, -1)
    items, *tiles = work.derived
    out = attend_decode(queries, pool, items, work, scores=scores, sinks=sinks)  # [S, K, G, D]
    if tiles:
        prefilled = attend_prefill(queries, pool, (tiles[0], tiles[1]), work, scores=scores, sinks=sinks)
        # last, since a tile's tail may lie over any token; rows with another count of tokens write nowhere
        q_lens = work.cu_q_lens[1:] - work.cu_q_lens[:-1]
        token = jnp.where(q_lens == 1, work.cu_q_lens[:-1], num_tokens)
        out = prefilled.at[token].set(out, mode="drop")
    return out.reshape(q.shape).astype(q.dtype)
