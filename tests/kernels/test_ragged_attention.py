"""Reference, XLA and native attention against a dense float64 softmax; null, free and stale slots hold NaN."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from native_backend import need

from pallas_kernels.backend import Backend
from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.native.library import library
from pallas_kernels.ragged_attention import attention_work, ragged_attention
from pallas_kernels.ragged_attention.reference import to_reference_layout
from pallas_kernels.ragged_attention.xla_decode import TURN
from pallas_kernels.ragged_attention.xla_prefill import TILE

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
    """Rows in blocks in an order drawn from `seed`; what a row holds depends on its key alone."""
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
            block = tables[index, column] = free.pop()
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


def backends_here() -> list[Backend]:
    """All that this file tests, the native one where it can be had."""
    return [Backend.REFERENCE, Backend.XLA, *([] if library().obstacle else [Backend.NATIVE])]


def rows(*lens: tuple[int, int]) -> tuple[Row, ...]:
    return tuple(Row(q_len=q_len, kv_len=kv_len, key=key) for key, (q_len, kv_len) in enumerate(lens))


DECODE = Case(rows=rows(*((1, n) for n in EDGES)), num_tokens=16, num_rows=16)
MIXED = Case(
    rows=rows(*((1, n) for n in EDGES), (2, 2), (33, 33), (64, 129), (65, 65), (17, 200)), num_tokens=256, num_rows=16
)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"window": 1, "block_size": 16},
        {"window": 16, "heads": 3, "kv_heads": 3, "sinks": True},
        {"window": 64, "heads": 6, "head_dim": 64, "dtype": "bfloat16"},
        {"window": 65, "block_size": 16, "heads": 7, "kv_heads": 1, "head_dim": 80, "softcap": 3.0},
        {"window": 200, "heads": 8, "kv_heads": 1, "head_dim": 128, "sinks": True, "softcap": 20.0},
        {"window": 500, "block_size": 16, "heads": 3, "kv_heads": 1, "head_dim": 128, "dtype": "bfloat16"},
        {"heads": 16, "head_dim": 80, "block_size": 16, "dtype": "bfloat16", "sinks": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", [Backend.REFERENCE, *FAST])
def test_equals_dense_softmax(change: dict[str, object], backend: Backend) -> None:
    check(replace(MIXED, **change), backend)


@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("backend", FAST)
def test_steps_of_decode_rows_only(window: int | None, backend: Backend) -> None:
    check(replace(DECODE, window=window), backend)


@pytest.mark.parametrize(
    ("backend", "block_size", "window", "dtype"),
    [
        (Backend.XLA, 16, 40, "float32"),
        (Backend.XLA, 24, None, "float32"),
        (Backend.XLA, 64, None, "float32"),
        (Backend.XLA, 64, 40, "float32"),
        (Backend.NATIVE, 16, 40, "float32"),
        (Backend.NATIVE, 16, 40, "bfloat16"),
        (Backend.NATIVE, 64, None, "float32"),
        (Backend.NATIVE, 32, None, "bfloat16"),
    ],
)
def test_prompts_around_the_edges_of_blocks_and_tiles(
    backend: Backend, block_size: int, window: int | None, dtype: str
) -> None:
    lens = [(n, n) for n in EDGES[1:]] + [(n, n + 70) for n in (2, TILE - 1, TILE, TILE + 1)]
    case = Case(rows=rows(*lens), num_tokens=1024, num_rows=16, block_size=block_size, window=window, dtype=dtype)
    check(case, backend)


@pytest.mark.parametrize("backend", FAST)
def test_a_step_may_be_full_to_the_last_token_and_row(backend: Backend) -> None:
    check(Case(rows=rows((1, 9), (1, 70), (40, 40), (22, 64)), num_tokens=64, num_rows=4), backend)
    check(Case(rows=rows(*((2, 2 + n) for n in range(8))), num_tokens=16, num_rows=8), backend)


@pytest.mark.parametrize("backend", FAST)
def test_a_long_row_beside_short_ones(backend: Backend) -> None:
    check(Case(rows=rows((1, 1200), *((1, 3),) * 6), num_tokens=8, num_rows=8), backend)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("head_dim", [8, 24, 72])
def test_any_head_dim_of_eights(head_dim: int, dtype: str) -> None:
    case = replace(MIXED, head_dim=head_dim, heads=10, kv_heads=2, block_size=16, window=50, dtype=dtype)
    check(case, Backend.NATIVE)
    check(replace(case, q_dtype="bfloat16"), Backend.NATIVE)


@pytest.mark.parametrize("change", [{}, {"window": 40, "sinks": True, "softcap": 20.0}, {"head_dim": 128}], ids=str)
def test_native_prompts_in_bfloat16(change: dict[str, object]) -> None:
    lens = [(n, n) for n in EDGES[1:]] + [(n, n + 70) for n in (2, 31, 32, 33)]
    base = Case(rows=rows(*lens), num_tokens=1024, num_rows=16, heads=6, dtype="bfloat16", q_dtype="bfloat16")
    check(replace(base, **change), Backend.NATIVE)


def test_the_result_has_the_dtype_of_the_queries() -> None:
    step = build(DECODE)
    want = softmax_oracle(DECODE, step)
    for backend in backends_here():
        got = run(DECODE, replace(step, q=step.q.astype(jnp.bfloat16)), backend)
        assert got.dtype == jnp.bfloat16
        assert np.abs(got.astype(np.float32) - want).max() < 2e-2 * np.abs(want).max()


def test_padding_gives_zeros() -> None:
    for case, real in ((replace(DECODE, rows=DECODE.rows[:3]), 3), (replace(MIXED, rows=MIXED.rows[:13]), 46)):
        step = build(case)
        for backend in backends_here():
            got = run(case, step, backend)
            assert (got[real:] == 0).all()
            assert (got[:real] != 0).any()


def test_an_empty_step_gives_zeros() -> None:
    for case in (DECODE, MIXED):
        case = replace(case, rows=(), sinks=True)
        for backend in backends_here():
            assert (run(case, build(case), backend) == 0).all()


def test_large_scores_neither_overflow_nor_vanish() -> None:
    case = replace(DECODE, sinks=True)
    step = build(case)
    assert step.sinks is not None
    for backend in backends_here():
        loud = run(case, replace(step, q=step.q * np.float32(1e4)), backend)
        assert np.isfinite(loud).all()
        # row 2 sees 16 keys: scores of tens of thousands leave all the weight on one of them
        values = step.dense[2][1]  # [16, K, D]
        best = np.abs(loud[2, 0][None] - values[:, 0]).max(axis=1).min()
        assert best < 1e-3
        drowned = run(case, replace(step, sinks=np.full_like(step.sinks, 1e4)), backend)
        assert (drowned == 0).all()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("q_dtype", ["float32", "bfloat16"])
def test_a_row_with_nan_harms_no_other(backend: Backend, dtype: str, q_dtype: str) -> None:
    need(backend)
    for case, sick, others in ((DECODE, [4], [3, 5]), (MIXED, range(13, 46), [1, 12, 48])):
        case = replace(case, dtype=dtype, q_dtype=q_dtype)
        step = build(case)
        well = run(case, step, backend)
        q = step.q.copy()
        q[list(sick)] = np.nan
        got = run(case, replace(step, q=q), backend)
        assert np.isnan(got[list(sick)]).all()
        assert (got[others] == well[others]).all()


# I-BITS: the bits of a row's result


def result(case: Case, index: int, backend: Backend, *, seed: int = 0) -> np.ndarray:
    need(backend)
    step = build(case, seed=seed)
    start, stop = step.cu_q_lens[index : index + 2]
    return run(case, step, backend)[start:stop].astype(np.float32).view(np.uint32)


NEIGHBOURS = rows((1, 3), (1, 300), (1, 64), (1, 1000), (1, 129), (1, 17), (1, 65))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("dtype", "window"), [("float32", None), ("bfloat16", 100)])
def test_bits_of_a_decode_row(dtype: str, window: int | None, backend: Backend) -> None:
    row = Row(q_len=1, kv_len=777, key=50)
    base = Case(rows=(row,), num_tokens=8, num_rows=8, heads=12, kv_heads=4, dtype=dtype, window=window, sinks=True)
    alone = result(base, 0, backend)
    assert (result(base, 0, backend, seed=7) == alone).all(), "other blocks"
    for place in (0, 1, 4, 7):
        crowd = (*NEIGHBOURS[:place], row, *NEIGHBOURS[place:])
        assert (result(replace(base, rows=crowd), place, backend) == alone).all(), f"place {place} among neighbours"
    for size in (16, 32):
        crowd = (*NEIGHBOURS, row)
        assert (result(replace(base, rows=crowd, num_tokens=size, num_rows=size), 7, backend) == alone).all(), (
            f"bucket {size}"
        )
    mixed = (*NEIGHBOURS[:3], row, Row(q_len=60, kv_len=60))
    assert (result(replace(base, rows=mixed, num_tokens=128), 3, backend) == alone).all(), "beside a prompt"


@pytest.mark.parametrize(
    ("backend", "dtype"), [(Backend.XLA, "float32"), (Backend.NATIVE, "float32"), (Backend.NATIVE, "bfloat16")]
)
def test_bits_of_a_prefill_row(backend: Backend, dtype: str) -> None:
    row = Row(q_len=100, kv_len=230, key=50)
    base = Case(
        rows=(row,),
        num_tokens=128,
        num_rows=8,
        heads=12,
        kv_heads=4,
        window=100,
        sinks=True,
        dtype=dtype,
        q_dtype=dtype,
    )
    alone = result(base, 0, backend)
    assert (result(base, 0, backend, seed=7) == alone).all(), "other blocks"
    crowd = (*NEIGHBOURS[:3], Row(q_len=13, kv_len=99), row, Row(q_len=65, kv_len=65))
    for tokens, size in ((256, 8), (512, 32)):
        case = replace(base, rows=crowd, num_tokens=tokens, num_rows=size)
        assert (result(case, 4, backend) == alone).all(), f"bucket {tokens} x {size}"


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bits_of_a_prompt_cut_in_chunks(dtype: str, backend: Backend) -> None:
    q_dtype = dtype if backend == Backend.NATIVE else "float32"
    base = Case(rows=(), num_tokens=256, num_rows=8, heads=12, kv_heads=4, dtype=dtype, q_dtype=q_dtype)
    whole = result(replace(base, rows=(Row(q_len=200, kv_len=200),)), 0, backend)
    for cut in (64, 128, 192, *((7, 100, 198) if backend == Backend.NATIVE else ())):
        chunks = [(cut, cut), (200 - cut, 200)]
        parts = [result(replace(base, rows=(Row(q_len=n, kv_len=end),)), 0, backend) for n, end in chunks]
        assert (np.concatenate(parts) == whole).all(), f"cut at {cut}"


@pytest.mark.parametrize("window", [None, 100])
def test_native_decode_in_float32_has_the_bits_of_prefill(window: int | None) -> None:
    base = Case(rows=(), num_tokens=1024, num_rows=8, heads=12, kv_heads=4, window=window, sinks=True)
    whole = result(replace(base, rows=(Row(q_len=777, kv_len=777),)), 0, Backend.NATIVE)
    for length in (1, 17, 255, 256, 257, 600, 777):
        one = result(replace(base, rows=(Row(q_len=1, kv_len=length),)), 0, Backend.NATIVE)
        assert (one[0] == whole[length - 1]).all(), length


# what it costs


@pytest.mark.parametrize("case", [DECODE, replace(MIXED, num_tokens=64)], ids=["decode", "mixed"])
@pytest.mark.parametrize("storage", ["float32", "uint16"])
@pytest.mark.parametrize("backend", FAST)
def test_a_step_neither_copies_nor_widens_the_pool(case: Case, storage: str, backend: Backend) -> None:
    need(backend)
    shape = (2048, case.kv_heads, 64, case.head_dim)
    k_pool, v_pool = (jax.ShapeDtypeStruct(s, storage) for s in ((*shape[:2], shape[3], 64), shape))
    lens = tuple(
        jax.ShapeDtypeStruct(s, "int32") for s in ((case.num_rows + 1,), (case.num_rows,), (case.num_rows, TABLE_WIDTH))
    )
    q = jax.ShapeDtypeStruct((case.num_tokens, case.heads, case.head_dim), "float32")
    analysis = attend.lower(q, k_pool, v_pool, lens, None, case=case, backend=backend).compile().memory_analysis()
    assert analysis is not None
    # a turn's keys and values in float32, widths to spare; the pool is 33 or 17 MB
    assert analysis.temp_size_in_bytes < 6 * TURN * 4 * 64 * case.kv_heads * case.head_dim + 200_000
