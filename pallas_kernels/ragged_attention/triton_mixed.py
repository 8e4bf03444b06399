"""Rows with several query tokens (chunked and whole prefill): a flat grid over tiles of queries, one row each."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.launch import launch
from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.ragged_attention.triton_tiles import (
    KeySource,
    Problem,
    cdiv,
    finish,
    first_key,
    log2_of,
    pool_arrays,
    start_carry,
    walk_keys,
)
from pallas_kernels.ragged_attention.tuning import Tuning

# tokens of a query tile for which a map is made; a kernel takes the one that fits its group
Q_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128)


def query_blocks(cu_q_lens: Array, kv_lens: Array, *, num_tokens: int, q_tokens: int) -> Array:
    """i32[4, B]: row, first token, token count and position of the first token of every tile of queries.

    Tiles cover the rows with more than one token and then the padding tokens, whose position is so low that they see
    no key and come out as zeros. Tiles past the end have count 0. B is the most that any split of T tokens into rows
    can need.
    """
    num_rows = kv_lens.shape[0]
    most_rows = min(num_rows, num_tokens // 2) + 1
    most = (num_tokens + most_rows * (q_tokens - 1)) // q_tokens
    bounds = jnp.concatenate([cu_q_lens, jnp.full((1,), num_tokens, cu_q_lens.dtype)])  # the last row is the padding
    start, lens = bounds[:-1], bounds[1:] - bounds[:-1]
    padding = jnp.arange(num_rows + 1) == num_rows
    mine = (lens > 1) | padding
    tiles = jnp.where(mine, (lens + (q_tokens - 1)) // q_tokens, 0)
    ends = jnp.cumsum(tiles, dtype=jnp.int32)
    block = jnp.arange(most, dtype=jnp.int32)
    row = jnp.sum(ends[None, :] <= block[:, None], axis=1, dtype=jnp.int32)
    used = row <= num_rows
    row = jnp.minimum(row, num_rows)
    offset = (block - (ends - tiles)[row]) * q_tokens
    count = jnp.where(used, jnp.clip(lens[row] - offset, 0, q_tokens), 0)
    real = row < num_rows
    position = jnp.where(real, jnp.append(kv_lens, 0)[row] - lens[row] + offset, -q_tokens)
    return jnp.stack([jnp.where(real, row, 0), start[row] + offset, count, position]).astype(jnp.int32)


def _mixed_kernel(
    blocks: Any,
    table: Any,
    q_ref: Any,
    sinks_ref: Any,
    *refs: Any,
    problem: Problem,
    tuning: Tuning,
    q_tokens: int,
) -> None:
    *pool, out = refs
    kv_head = pl.program_id(0)
    # the last tiles of a long prompt see the most keys: they start first, behind the unused ones, which exit at once
    block = pl.num_programs(1) - jnp.int32(1) - pl.program_id(1)
    row, token, count, position = blocks[0, block], blocks[1, block], blocks[2, block], blocks[3, block]

    @pl.when(count > jnp.int32(0))
    def _() -> None:
        rows_of_tile = q_tokens * problem.padded_group
        packed = lax.iota(jnp.int32, rows_of_tile)  # (token, query head of the kv head)
        nth = lax.shift_right_logical(packed, log2_of(problem.padded_group))
        member = packed & jnp.int32(problem.padded_group - 1)
        dim = lax.iota(jnp.int32, problem.padded_dim)[None, :]
        head = kv_head * jnp.int32(problem.group) + member
        inside = (nth < count) & (member < jnp.int32(problem.group))
        mask = inside[:, None] & (dim < jnp.int32(problem.head_dim))
        where = ((token + nth)[:, None], head[:, None], dim)
        q = plgpu.load(q_ref.at[where], mask=mask, other=0)
        sinks = plgpu.load(sinks_ref.at[head], mask=inside, other=-jnp.inf)
        bits = log2_of(tuning.kv_tile)
        oldest = first_key(position, problem)
        stop = jnp.maximum(position + count, jnp.int32(0))  # past the newest key that the last query sees
        _, total, acc = walk_keys(
            q,
            start_carry(sinks, rows_of_tile, problem),
            KeySource(pool=tuple(pool), table=table, row=row, kv_head=kv_head, problem=problem),
            tiles=(lax.shift_right_logical(oldest, bits), cdiv(stop, tuning.kv_tile)),
            # from the oldest key that the newest query sees, to the one that the oldest query sees last
            whole=(
                cdiv(first_key(stop - jnp.int32(1), problem), tuning.kv_tile),
                lax.shift_right_arithmetic(position + jnp.int32(1), bits),
            ),
            keys=(oldest, stop),
            positions=position + nth,
            kv_tile=tuning.kv_tile,
        )
        plgpu.store(out.at[where], finish(total, acc).astype(out.dtype), mask=mask)


def q_tokens_of(problem: Problem, tuning: Tuning) -> int:
    """Tokens of a query tile: as many as fill the packed tile, among those a map is made for."""
    wanted = tuning.q_tile // problem.padded_group
    return max((n for n in Q_TOKENS if n <= wanted), default=Q_TOKENS[0])


def attend_mixed(
    q: Array,
    pool: LayerPool,
    blocks: Array,
    block_tables: Array,
    sinks: Array,
    *,
    problem: Problem,
    tuning: Tuning,
) -> Array:
    """[T, H, D] in q's dtype. Rows with one token are not written: the decode kernel writes those.

    blocks: `query_blocks(..., q_tokens=q_tokens_of(problem, tuning))`.
    """
    q_tokens = q_tokens_of(problem, tuning)
    (out,) = launch(
        partial(_mixed_kernel, problem=problem, tuning=tuning, q_tokens=q_tokens),
        [blocks, block_tables, q, sinks, *pool_arrays(pool)],
        [jax.ShapeDtypeStruct(q.shape, q.dtype)],
        name="mixed",
        grid=(problem.kv_heads, blocks.shape[1]),
        num_warps=tuning.num_warps,
        num_stages=tuning.num_stages,
    )
    return out
