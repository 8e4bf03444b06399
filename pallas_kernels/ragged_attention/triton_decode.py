"""Decode: one query token a row. A row's keys are split over programs, and a second kernel merges the parts."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.launch import launch
from pallas_kernels.layer_pool import LayerPool, is_scaled
from pallas_kernels.ragged_attention.triton_tiles import (
    LOWEST,
    KeySource,
    Problem,
    cdiv,
    finish,
    first_key,
    log2_of,
    nonzero,
    pool_arrays,
    start_carry,
    walk_keys,
)
from pallas_kernels.ragged_attention.tuning import Tuning


def decode_rows(cu_q_lens: Array, kv_lens: Array, *, decode_only: bool) -> Array:
    """i32[2, S]: the token that each row writes, and the keys it reads; -1 keys: the row is none of this kernel's.

    In a decode-only step every token belongs to some row, so that rows without a token (0 keys) write zeros to the
    padding tokens. In a mixed step rows with no token or more than one are left to the mixed kernel.
    """
    start, lens = cu_q_lens[:-1], cu_q_lens[1:] - cu_q_lens[:-1]
    if not decode_only:
        return jnp.stack([start, jnp.where(lens == 1, kv_lens, -1)]).astype(jnp.int32)
    index = jnp.arange(kv_lens.shape[0], dtype=jnp.int32)
    padding = cu_q_lens[-1] + index - start  # index - start: rows before this one that have no token
    return jnp.stack([jnp.where(lens == 1, start, padding), jnp.where(lens == 1, kv_lens, 0)]).astype(jnp.int32)


def _split_of(keys: Array, split: Array, problem: Problem, tuning: Tuning) -> tuple[Array, Array, Array]:
    """The oldest key of a row with this many keys, and the tiles [first, last) of one of its splits."""
    oldest = first_key(keys - jnp.int32(1), problem)
    first = lax.shift_right_logical(oldest, log2_of(tuning.kv_tile))
    last = cdiv(keys, tuning.kv_tile)
    share = cdiv(last - first, tuning.num_splits)
    start = first + split * share
    return oldest, start, jnp.minimum(start + share, last)


def _decode_kernel(
    rows: Any,
    table: Any,
    q_ref: Any,
    sinks_ref: Any,
    *refs: Any,
    problem: Problem,
    tuning: Tuning,
) -> None:
    kv_head, row, split = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    arrays = 4 if is_scaled(problem.dtype) else 2
    pool, outs = refs[:arrays], refs[arrays:]
    token, keys = rows[0, row], rows[1, row]
    oldest, start, stop = _split_of(keys, split, problem, tuning)
    # a row without keys still owes its zeros where no second kernel writes them
    owes = (keys >= jnp.int32(0)) if tuning.num_splits == 1 else (start < stop)

    @pl.when(owes)
    def _() -> None:
        rows_of_tile = max(tuning.q_tile, problem.padded_group)
        member = lax.iota(jnp.int32, rows_of_tile)  # query heads of the kv head, padded to a tile
        dim = lax.iota(jnp.int32, problem.padded_dim)[None, :]
        head = kv_head * jnp.int32(problem.group) + member
        inside = member < jnp.int32(problem.group)
        mask = inside[:, None] & (dim < jnp.int32(problem.head_dim))
        q = plgpu.load(q_ref.at[token, head[:, None], dim], mask=mask, other=0)
        sinks = plgpu.load(sinks_ref.at[head], mask=inside & (split == jnp.int32(0)), other=-jnp.inf)
        highest, total, acc = walk_keys(
            q,
            start_carry(sinks, rows_of_tile, problem),
            KeySource(pool=pool, table=table, row=row, kv_head=kv_head, problem=problem),
            tiles=(start, stop),
            keys=(oldest, keys),
            positions=None,
            kv_tile=tuning.kv_tile,
        )
        if tuning.num_splits == 1:
            out = outs[-1]
            plgpu.store(out.at[token, head[:, None], dim], finish(total, acc).astype(out.dtype), mask=mask)
        else:
            highest_out, total_out, acc_out = outs
            plgpu.store(highest_out.at[row, head, split], highest, mask=inside)
            plgpu.store(total_out.at[row, head, split], total, mask=inside)
            plgpu.store(acc_out.at[row, head[:, None], split, dim], acc, mask=mask)


def _merge_kernel(
    rows: Any, highest_ref: Any, total_ref: Any, acc_ref: Any, *outs: Any, problem: Problem, tuning: Tuning
) -> None:
    row, head = pl.program_id(0), pl.program_id(1)
    out = outs[-1]
    token, keys = rows[0, row], rows[1, row]

    @pl.when(keys >= jnp.int32(0))
    def _() -> None:
        split = lax.iota(jnp.int32, tuning.num_splits)
        dim = lax.iota(jnp.int32, problem.padded_dim)
        _, start, stop = _split_of(keys, split, problem, tuning)
        written = start < stop  # the others exited early and left their parts as they were
        highest = plgpu.load(highest_ref.at[row, head, split], mask=written, other=LOWEST)
        total = plgpu.load(total_ref.at[row, head, split], mask=written, other=0)
        inside = dim < jnp.int32(problem.head_dim)
        mask = written[:, None] & inside[None, :]
        acc = plgpu.load(acc_ref.at[row, head, split[:, None], dim[None, :]], mask=mask, other=0)
        weights = jnp.exp2(highest - jnp.max(highest))
        merged = jnp.sum(weights[:, None] * acc, axis=0) / nonzero(jnp.sum(weights * total))
        plgpu.store(out.at[token, head, dim], merged.astype(out.dtype), mask=inside)


def attend_decode(
    q: Array,
    pool: LayerPool,
    rows: Array,
    block_tables: Array,
    sinks: Array,
    *,
    problem: Problem,
    tuning: Tuning,
    out: Array | None = None,
) -> Array:
    """[T, H, D] in q's dtype for the rows of `decode_rows`; written into `out` where given, which is donated."""
    heads, num_rows = problem.kv_heads * problem.group, block_tables.shape[0]
    result = jax.ShapeDtypeStruct(q.shape, q.dtype)
    onto = [] if out is None else [out]
    settings: dict[str, Any] = {"num_warps": tuning.num_warps, "num_stages": tuning.num_stages}
    grid = (problem.kv_heads, num_rows, tuning.num_splits)
    kernel = partial(_decode_kernel, problem=problem, tuning=tuning)
    inputs = [rows, block_tables, q, sinks, *pool_arrays(pool)]
    if tuning.num_splits == 1:
        aliases = {len(inputs): 0} if onto else {}
        (done,) = launch(kernel, [*inputs, *onto], [result], name="decode", grid=grid, aliases=aliases, **settings)
        return done
    part = (num_rows, heads, tuning.num_splits)
    parts = launch(
        kernel,
        inputs,
        [
            jax.ShapeDtypeStruct(part, jnp.float32),
            jax.ShapeDtypeStruct(part, jnp.float32),
            jax.ShapeDtypeStruct((*part, problem.head_dim), jnp.float32),
        ],
        name="decode_split",
        grid=grid,
        **settings,
    )
    merge = partial(_merge_kernel, problem=problem, tuning=tuning)
    (done,) = launch(
        merge,
        [rows, *parts, *onto],
        [result],
        name="decode_merge",
        grid=(num_rows, heads),
        aliases={1 + len(parts): 0} if onto else {},
        num_warps=min(4, tuning.num_warps),
        num_stages=1,
    )
    return done
