"""Defines correct: one query token at a time, every position of its table, float32. Pools are [N, K, P, D]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.layer_pool import LayerPool, decode

if TYPE_CHECKING:
    from pallas_kernels.ragged_attention import AttentionWork


def make_work(
    cu_q_lens: Array, kv_lens: Array, block_tables: Array, *, num_tokens: int, block_size: int, window: int | None
) -> tuple[Array, ...]:
    """Row and position, i32[T] each, of every query token. Padding tokens get position -1 and so see no key."""
    del block_tables, block_size, window
    token = jnp.arange(num_tokens, dtype=jnp.int32)
    row = jnp.sum(cu_q_lens[None, 1:] <= token[:, None], axis=1, dtype=jnp.int32)
    real = row < kv_lens.shape[0]
    row = jnp.where(real, row, 0)
    position = kv_lens[row] - cu_q_lens[row + 1] + token
    return row, jnp.where(real, position, -1)


def attend(
    q: Array,
    pool: LayerPool,
    work: AttentionWork,
    *,
    scale: float,
    softcap: float | None,
    sinks: Array | None,
) -> Array:
    """Attention of q [T, H, D] over a pool [N, K, P, D] -> [T, H, D] in q's dtype; zeros for tokens that see no key."""
    num_heads, head_dim = q.shape[1:]
    kv_heads = pool.kv_heads
    sink = jnp.full((num_heads,), -jnp.inf) if sinks is None else sinks
    sink = sink.astype(jnp.float32).reshape(kv_heads, -1, 1)  # [K, G, 1]
    key = jnp.arange(work.block_tables.shape[1] * work.block_size, dtype=jnp.int32)

    def attend_token(query: Array, row: Array, position: Array) -> Array:
        seen = key <= position
        if work.window is not None:
            seen &= key > position - work.window
        blocks = work.block_tables[row]
        # [W, K, P, D] -> [K, W*P, D]
        keys, values = (
            decode(array[blocks], pool.dtype).swapaxes(0, 1).reshape(kv_heads, -1, head_dim)
            for array in (pool.k, pool.v)
        )
        if pool.k_scale is not None and pool.v_scale is not None:
            keys *= pool.k_scale[blocks].swapaxes(0, 1).reshape(kv_heads, -1, 1)
            values *= pool.v_scale[blocks].swapaxes(0, 1).reshape(kv_heads, -1, 1)
        values = jnp.where(seen[None, :, None], values, 0.0)
        query = query.reshape(kv_heads, -1, head_dim)
        scores = jnp.einsum("kgd,kjd->kgj", query, keys, precision=lax.Precision.HIGHEST) * scale
        if softcap is not None:
            scores = softcap * jnp.tanh(scores / softcap)
        scores = jnp.where(seen[None, None, :], scores, -jnp.inf)
        top = jnp.maximum(jnp.max(scores, axis=2, keepdims=True), sink)
        top = jnp.where(top == -jnp.inf, 0.0, top)
        weights = jnp.exp(scores - top)
        total = jnp.sum(weights, axis=2, keepdims=True) + jnp.exp(sink - top)
        out = jnp.einsum("kgj,kjd->kgd", weights, values, precision=lax.Precision.HIGHEST)
        return (out / jnp.where(total == 0.0, 1.0, total)).reshape(num_heads, head_dim)

    row, position = work.derived
    out = lax.map(lambda token: attend_token(*token), (q.astype(jnp.float32), row, position))
    return out.astype(q.dtype)


def to_reference_layout(k_pool: Array) -> Array:
    """The K pool of the XLA backend, [N, K, D, P], as the one of the reference, [N, K, P, D]; a copy."""
    return jnp.swapaxes(k_pool, 2, 3)
