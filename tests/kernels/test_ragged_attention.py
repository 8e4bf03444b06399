"""Reference, XLA and native attention against a dense float64 softmax; null, free and stale slots hold NaN."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense_attention import (
    DECODE,
    EDGES,
    FAST,
    MIXED,
    TABLE_WIDTH,
    Case,
    attend,
    build,
    check,
    rows,
    run,
    softmax_oracle,
)
from native_backend import backends_here, need

from pallas_kernels.backend import Backend
from pallas_kernels.ragged_attention.xla_decode import TURN
from pallas_kernels.ragged_attention.xla_prefill import TILE


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
