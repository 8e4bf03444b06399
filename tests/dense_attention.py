"""Steps of dense keys and values for the backends of attention, and a float64 softmax over them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from native_backend import need

from pallas_kernels.backend import Backend
from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.ragged_attention import attention_work, ragged_attention
from pallas_kernels.ragged_attention.reference import to_reference_layout

TABLE_WIDTH = 20
FAST = (Backend.XLA, Backend.NATIVE)
EDGES = (1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200)


@dataclass(frozen=True, kw_only=True)
class Row:
    """q_len queries at the end of kv_len tokens; rows of one `key` hold the same tokens at the same positions."""

    q_len: int
    kv_len: int
    key: int = 0


@dataclass(frozen=True, kw_only=True)
class Case:
    rows: tuple[Row, ...]
    num_tokens: int
    num_rows: int
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    block_size: int = 64
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    dtype: str = "float32"
    q_dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class Step:
    q: np.ndarray
    k_pool: np.ndarray
    v_pool: np.ndarray
    cu_q_lens: np.ndarray
    kv_lens: np.ndarray
    block_tables: np.ndarray
    sinks: np.ndarray | None
    dense: tuple[tuple[np.ndarray, np.ndarray], ...]  # K and V [kv_len, K, D] of every row, as the pool rounds them


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    return values.astype(jnp.dtype(dtype)).astype(np.float32)


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    return values.astype(jnp.bfloat16).view(np.uint16) if dtype == "bfloat16" else values


def build(case: Case, *, seed: int = 0) -> Step:
    """Rows in blocks in an order drawn from `seed`; what a row holds depends on its key alone. Blocks wholly behind
    the window are in no table; they and the null block hold NaN."""
    size, heads, dim = case.block_size, case.kv_heads, case.head_dim
    num_blocks = 3 + sum(-(-row.kv_len // size) for row in case.rows)
    num_blocks += -num_blocks % 128  # steps of one bucket share a compiled program
    free = np.random.default_rng(seed).permutation(np.arange(1, num_blocks)).tolist()
    k_pool = np.full((num_blocks, heads, dim, size), np.nan, np.float32)
    v_pool = np.full((num_blocks, heads, size, dim), np.nan, np.float32)
    tables = np.zeros((case.num_rows, TABLE_WIDTH), np.int32)
    queries, dense = [], []
    for index, row in enumerate(case.rows):
        # positions are drawn in order, so that a longer row begins with the tokens of a shorter one of its key
        drawn = np.random.default_rng(row.key).normal(size=(row.kv_len, case.heads + 2 * heads, dim))
        q, k, v = np.split(drawn.astype(np.float32), [case.heads, case.heads + heads], axis=1)
        queries.append(q[row.kv_len - row.q_len :])
        dense.append((rounded(k, case.dtype), rounded(v, case.dtype)))
        for column in range(-(-row.kv_len // size)):
            block = free.pop()
            if case.window is not None and (column + 1) * size <= row.kv_len - row.q_len - case.window + 1:
                continue  # behind the window of the row's first query: given up, its entry names the null block
            tables[index, column] = block
            live = slice(column * size, min((column + 1) * size, row.kv_len))
            count = live.stop - live.start
            k_pool[block, :, :, :count] = k[live].transpose(1, 2, 0)
            v_pool[block, :, :count] = v[live].transpose(1, 0, 2)
    q_lens, kv_lens = np.zeros(case.num_rows, np.int32), np.zeros(case.num_rows, np.int32)
    q_lens[: len(case.rows)] = [row.q_len for row in case.rows]
    kv_lens[: len(case.rows)] = [row.kv_len for row in case.rows]
    padding = np.full((case.num_tokens - q_lens.sum(), case.heads, dim), np.nan, np.float32)
    return Step(
        q=np.concatenate([*queries, padding]).astype(jnp.dtype(case.q_dtype)),
        k_pool=stored(k_pool, case.dtype),
        v_pool=stored(v_pool, case.dtype),
        cu_q_lens=np.concatenate([[0], np.cumsum(q_lens)]).astype(np.int32),
        kv_lens=kv_lens,
        block_tables=tables,
        sinks=np.random.default_rng(99).normal(size=case.heads).astype(np.float32) if case.sinks else None,
        dense=tuple(dense),
    )


@partial(jax.jit, static_argnames=("case", "backend"))
def attend(
    q: Array,
    k_pool: Array,
    v_pool: Array,
    lens: tuple[Array, Array, Array],
    sinks: Array | None,
    *,
    case: Case,
    backend: Backend,
) -> Array:
    work = attention_work(
        *lens, num_tokens=case.num_tokens, block_size=case.block_size, window=case.window, backend=backend
    )
    if backend == Backend.REFERENCE:
        k_pool = to_reference_layout(k_pool)
    pool = LayerPool(k=k_pool, v=v_pool, dtype="bfloat16" if k_pool.dtype == jnp.uint16 else "float32")
    scale = case.head_dim**-0.5
    return ragged_attention(q, pool, work, scale=scale, softcap=case.softcap, sinks=sinks)


def run(case: Case, step: Step, backend: Backend) -> np.ndarray:
    lens = (step.cu_q_lens, step.kv_lens, step.block_tables)
    shape_only = replace(case, rows=(), sinks=False, dtype="")  # the compiled step must not know its rows
    out = np.asarray(attend(step.q, step.k_pool, step.v_pool, lens, step.sinks, case=shape_only, backend=backend))
    assert out.dtype == step.q.dtype
    return out


def softmax_oracle(case: Case, step: Step) -> np.ndarray:
    """Dense attention of every row in float64; zeros for padding tokens."""
    out = np.zeros(step.q.shape)
    for index, (row, (k, v)) in enumerate(zip(case.rows, step.dense, strict=True)):
        start, stop = step.cu_q_lens[index : index + 2]
        group = case.heads // case.kv_heads
        q = step.q[start:stop].astype(np.float64)
        scores = np.einsum("qhd,jhd->hqj", q, np.repeat(k, group, axis=1)) * case.head_dim**-0.5
        if case.softcap is not None:
            scores = case.softcap * np.tanh(scores / case.softcap)
        position = np.arange(row.kv_len - row.q_len, row.kv_len)[:, None]
        key = np.arange(row.kv_len)[None, :]
        seen = (key <= position) & (case.window is None or key > position - (case.window or 0))
        weights = np.where(seen[None], np.exp(scores), 0.0)
        total = weights.sum(axis=2) + (0.0 if step.sinks is None else np.exp(step.sinks.astype(np.float64))[:, None])
        out[start:stop] = np.einsum("hqj,jhd->qhd", weights / total[:, :, None], np.repeat(v, group, axis=1))
    return out


def check(case: Case, backend: Backend) -> None:
    """Within 1e-5 of the largest value; with bfloat16 queries 2e-2."""
    need(backend)
    step = build(case)
    want = softmax_oracle(case, step)
    got = run(case, step, backend)
    assert np.isfinite(got).all(), backend
    tolerance = 1e-5 if case.q_dtype == "float32" else 2e-2
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def rows(*lens: tuple[int, int]) -> tuple[Row, ...]:
    return tuple(Row(q_len=q_len, kv_len=kv_len, key=key) for key, (q_len, kv_len) in enumerate(lens))


DECODE = Case(rows=rows(*((1, n) for n in EDGES)), num_tokens=16, num_rows=16)
MIXED = Case(
    rows=rows(*((1, n) for n in EDGES), (2, 2), (33, 33), (64, 129), (65, 65), (17, 200)), num_tokens=256, num_rows=16
)
