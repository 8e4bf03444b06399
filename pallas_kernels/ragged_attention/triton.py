"""Attention over paged keys in Pallas-Triton, for CUDA and ROCm; interpreted on CPU.

Rows with one token go through the decode kernel, in every step; the rows of a mixed step that have more, and its
padding, go through the mixed kernel, whose output the decode kernel then completes in place. Which kernels a step
contains is static (T == S means decode only), which rows each one takes is data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.ragged_attention.triton_decode import attend_decode, decode_rows
from pallas_kernels.ragged_attention.triton_mixed import Q_TOKENS, attend_mixed, q_tokens_of, query_blocks
from pallas_kernels.ragged_attention.triton_tiles import Problem
from pallas_kernels.ragged_attention.tuning import Tuning, case_of, tuning_for
from pallas_kernels.target import current_target

if TYPE_CHECKING:
    from pallas_kernels.ragged_attention import AttentionWork


def make_work(
    cu_q_lens: Array,
    kv_lens: Array,
    block_tables: Array,
    *,
    num_tokens: int,
    block_size: int,
    window: int | None,
) -> tuple[Array, ...]:
    """The maps from programs to rows that every layer of a step shares.

    First the decode map i32[2, S]; in a mixed step (num_tokens > S) then one map of query tiles i32[4, B] for each
    tile height in Q_TOKENS, since the group, which decides the height, is known to the layers only. Those not taken
    are dead code inside a jitted step.
    """
    del block_size, window  # tiles are cut by token; the window is loop bounds inside the kernels
    decode_only = num_tokens == block_tables.shape[0]
    rows = decode_rows(cu_q_lens, kv_lens, decode_only=decode_only)
    if decode_only:
        return (rows,)
    blocks = [query_blocks(cu_q_lens, kv_lens, num_tokens=num_tokens, q_tokens=n) for n in Q_TOKENS]
    return (rows, *blocks)


def attend(
    q: Array,
    pool: LayerPool,
    work: AttentionWork,
    *,
    scale: float,
    softcap: float | None,
    sinks: Array | None,
) -> Array:
    """Attention of q [T, H, D] over a pool [N, K, P, D] -> [T, H, D] in q's dtype; zeros for padding tokens.

    Queries and probabilities are rounded to the pool's dtype before they meet its numbers, to bfloat16 where those are
    scaled; sums are float32. Raises ValueError for a block size that is no power of two.
    """
    target = current_target()
    num_rows, table_width = work.block_tables.shape
    num_heads, head_dim = q.shape[1:]
    kv_heads = pool.kv_heads
    longest = table_width * work.block_size
    problem = Problem(
        kv_heads=kv_heads,
        group=num_heads // kv_heads,
        head_dim=head_dim,
        block_size=work.block_size,
        window=work.window,
        scale=scale,
        softcap=softcap,
        dtype=pool.dtype,
    )
    seen = jnp.full((num_heads,), -jnp.inf, jnp.float32) if sinks is None else sinks.astype(jnp.float32)

    def tuned(case: str) -> Tuning:
        return tuning_for(
            case,
            target=target,
            head_dim=head_dim,
            group=problem.group,
            dtype=pool.dtype,
            num_rows=num_rows,
            kv_heads=kv_heads,
            most_keys=longest if work.window is None else min(longest, work.window),
            table=work.tuning,
        )

    rows, *blocks = work.derived
    out = None
    if blocks:
        tuning = tuned(case_of(work.num_tokens, num_rows))
        chosen = blocks[Q_TOKENS.index(q_tokens_of(problem, tuning))]
        out = attend_mixed(q, pool, chosen, work.block_tables, seen, problem=problem, tuning=tuning)
    return attend_decode(
        q,
        pool,
        rows,
        work.block_tables,
        seen,
        problem=problem,
        tuning=tuned("decode"),
        out=out,
    )
