"""The Triton attention kernels, interpreted, against the reference; null, free and stale slots hold NaN."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.backend import Backend
from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.ragged_attention import attention_work, ragged_attention
from pallas_kernels.ragged_attention.triton_decode import attend_decode, decode_rows
from pallas_kernels.ragged_attention.triton_mixed import attend_mixed, q_tokens_of, query_blocks
from pallas_kernels.ragged_attention.triton_tiles import Problem
from pallas_kernels.ragged_attention.tuning import Tuning


@dataclass(frozen=True, kw_only=True)
class Case:
    """One step: (query tokens, length after the step) per row, padded to `tokens` and `rows`."""

    lens: tuple[tuple[int, int], ...]
    tokens: int
    rows: int = 4
    heads: int = 4
    kv_heads: int = 1
    head_dim: int = 64
    block_size: int = 16
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    dtype: str = "float32"
    q_dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class Step:
    """The arrays of a case; `clean` pools hold zeros where the others hold NaN."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    k_clean: np.ndarray
    v_clean: np.ndarray
    cu_q_lens: np.ndarray
    kv_lens: np.ndarray
    block_tables: np.ndarray
    sinks: np.ndarray | None
    num_real: int


def build(case: Case, seed: int = 0) -> Step:
    """Random rows in randomly permuted blocks; every slot that holds no token is NaN."""
    rng = np.random.default_rng(seed)
    size = case.block_size
    width = -(-max(n for _, n in case.lens) // size) + 1
    num_blocks = 3 + sum(-(-n // size) for _, n in case.lens)
    free = rng.permutation(np.arange(1, num_blocks)).tolist()
    shape = (num_blocks, case.kv_heads, size, case.head_dim)
    k, v = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    tables = np.zeros((case.rows, width), np.int32)
    for row, (_, length) in enumerate(case.lens):
        for column in range(-(-length // size)):
            block = tables[row, column] = free.pop()
            live = min(size, length - column * size)
            for pool in (k, v):
                pool[block, :, :live] = rng.normal(size=(case.kv_heads, live, case.head_dim))
    q_lens, kv_lens = np.zeros(case.rows, np.int32), np.zeros(case.rows, np.int32)
    q_lens[: len(case.lens)], kv_lens[: len(case.lens)] = np.array(case.lens, np.int32).T
    q = rng.normal(size=(case.tokens, case.heads, case.head_dim)).astype(np.float32)
    q[q_lens.sum() :] = np.nan
    return Step(
        q=q.astype(jnp.dtype(case.q_dtype)),
        k=store(k, case.dtype),
        v=store(v, case.dtype),
        k_clean=store(np.nan_to_num(k), case.dtype),
        v_clean=store(np.nan_to_num(v), case.dtype),
        cu_q_lens=np.concatenate([[0], np.cumsum(q_lens)]).astype(np.int32),
        kv_lens=kv_lens,
        block_tables=tables,
        sinks=rng.normal(size=case.heads).astype(np.float32) if case.sinks else None,
        num_real=int(q_lens.sum()),
    )


def store(values: np.ndarray, dtype: str) -> np.ndarray:
    """As a pool on CPU holds it: bfloat16 as uint16 bits."""
    return values if dtype == "float32" else values.astype(jnp.bfloat16).view(np.uint16)


def attend(case: Case, step: Step, backend: Backend, *, clean: bool = False) -> np.ndarray:
    def run(q, k, v, cu_q_lens, kv_lens, block_tables):
        work = attention_work(
            cu_q_lens,
            kv_lens,
            block_tables,
            num_tokens=case.tokens,
            block_size=case.block_size,
            window=case.window,
            backend=backend,
        )
        sinks = None if step.sinks is None else jnp.asarray(step.sinks)
        pool = LayerPool(k=k, v=v, dtype=case.dtype)
        return ragged_attention(q, pool, work, scale=0.3, softcap=case.softcap, sinks=sinks)

    pools = (step.k_clean, step.v_clean) if clean else (step.k, step.v)
    out = jax.jit(run)(step.q, *pools, step.cu_q_lens, step.kv_lens, step.block_tables)
    assert out.dtype == step.q.dtype
    return np.asarray(out).astype(np.float32)


def assert_close(got: np.ndarray, want: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * float(np.abs(want).max()))


DECODE = [
    Case(lens=((1, 1), (1, 15), (1, 16), (1, 17)), tokens=4),
    Case(lens=((1, 31), (1, 33)), tokens=4, heads=14, kv_heads=2, head_dim=80, window=17, sinks=True),
    Case(lens=((1, 80), (1, 2)), tokens=2, rows=2, heads=2, kv_heads=2, head_dim=96, block_size=32, softcap=2.0),
    Case(lens=((1, 64), (1, 65)), tokens=4, heads=8, head_dim=128, dtype="bfloat16", window=1, sinks=True),
    Case(lens=((1, 40),), tokens=1, rows=1, heads=4, head_dim=256, dtype="bfloat16", q_dtype="bfloat16", softcap=5.0),
]
MIXED = [
    Case(lens=((1, 7), (1, 64), (3, 3), (18, 33)), tokens=32),
    Case(lens=((1, 33), (33, 50)), tokens=40, heads=14, kv_heads=2, head_dim=80, window=9, sinks=True),
    Case(lens=((17, 17), (2, 49)), tokens=20, heads=2, kv_heads=2, head_dim=96, block_size=32, softcap=2.0),
    Case(lens=((1, 80), (32, 32)), tokens=33, heads=8, head_dim=128, dtype="bfloat16", window=20, sinks=True),
    Case(lens=((16, 40),), tokens=17, rows=2, head_dim=256, dtype="bfloat16", q_dtype="bfloat16", softcap=5.0),
    Case(lens=((1, 5), (1, 1), (1, 20)), tokens=8, heads=4, kv_heads=4, window=4),
]


@pytest.mark.parametrize("case", [*DECODE, *MIXED], ids=str)
def test_agrees_with_the_reference(case: Case) -> None:
    step = build(case)
    got = attend(case, step, Backend.TRITON)
    want = attend(case, step, Backend.REFERENCE, clean=True)
    assert_close(got[: step.num_real], want[: step.num_real], 1e-5 if case.dtype == "float32" else 2e-2)
    np.testing.assert_array_equal(got[step.num_real :], 0)


def test_a_broken_neighbour_changes_no_bit() -> None:
    case = Case(lens=((1, 33), (1, 20), (5, 40), (7, 9)), tokens=16, kv_heads=2)
    step = build(case)
    want = attend(case, step, Backend.TRITON)
    k = step.k.copy()
    k[step.block_tables[1, 0]] = np.nan
    k[step.block_tables[3, 0]] = np.nan
    got = attend(case, replace(step, k=k), Backend.TRITON)
    np.testing.assert_array_equal(got[:1], want[:1])
    np.testing.assert_array_equal(got[2:7], want[2:7])
    assert np.isnan(got[1]).all()
    assert np.isnan(got[7:14]).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_chunk_boundaries_change_no_bit(dtype: str) -> None:
    whole = Case(lens=((48, 70),), tokens=50, heads=6, kv_heads=2, dtype=dtype)
    step = build(whole)
    want = attend(whole, step, Backend.TRITON)[:48]

    def chunk(first: int, last: int) -> np.ndarray:
        q = step.q.copy()
        q[: last - first] = step.q[first:last]
        cu_q_lens = np.array([0, *[last - first] * 4], np.int32)
        kv_lens = np.array([22 + last, 0, 0, 0], np.int32)
        return attend(whole, replace(step, q=q, cu_q_lens=cu_q_lens, kv_lens=kv_lens), Backend.TRITON)[: last - first]

    np.testing.assert_array_equal(np.concatenate([chunk(0, 17), chunk(17, 48)]), want)


PROBLEM = Problem(kv_heads=2, group=3, head_dim=64, block_size=16, window=None, scale=0.3, softcap=None)


@pytest.mark.parametrize(("splits", "kv_tile", "window"), [(1, 16, 40), (2, 32, None), (8, 16, 40), (8, 16, None)])
def test_splits_change_nothing(splits: int, kv_tile: int, window: int | None) -> None:
    case = Case(lens=((1, 1), (1, 80), (1, 47)), tokens=4, heads=6, kv_heads=2, window=window, sinks=True)
    step = build(case)
    assert step.sinks is not None
    rows = decode_rows(jnp.asarray(step.cu_q_lens), jnp.asarray(step.kv_lens), decode_only=True)
    tuning = Tuning(q_tile=16, kv_tile=kv_tile, num_splits=splits, num_warps=4, num_stages=1)
    got = attend_decode(
        jnp.asarray(step.q),
        LayerPool(k=jnp.asarray(step.k), v=jnp.asarray(step.v), dtype="float32"),
        rows,
        jnp.asarray(step.block_tables),
        jnp.asarray(step.sinks),
        problem=replace(PROBLEM, window=window),
        tuning=tuning,
    )
    assert_close(np.asarray(got)[:3], attend(case, step, Backend.REFERENCE, clean=True)[:3], 1e-5)
    np.testing.assert_array_equal(np.asarray(got)[3], 0)


@pytest.mark.parametrize(("q_tile", "kv_tile", "q_tokens"), [(16, 16, 4), (64, 64, 16), (128, 16, 32)])
def test_tiles_change_nothing(q_tile: int, kv_tile: int, q_tokens: int) -> None:
    case = Case(lens=((17, 80), (30, 30)), tokens=48, heads=6, kv_heads=2)
    step = build(case)
    tuning = Tuning(q_tile=q_tile, kv_tile=kv_tile, num_warps=4, num_stages=1)
    assert q_tokens_of(PROBLEM, tuning) == q_tokens
    blocks = query_blocks(
        jnp.asarray(step.cu_q_lens), jnp.asarray(step.kv_lens), num_tokens=case.tokens, q_tokens=q_tokens
    )
    got = attend_mixed(
        jnp.asarray(step.q),
        LayerPool(k=jnp.asarray(step.k), v=jnp.asarray(step.v), dtype="float32"),
        blocks,
        jnp.asarray(step.block_tables),
        jnp.full((6,), -jnp.inf, jnp.float32),
        problem=PROBLEM,
        tuning=tuning,
    )
    assert_close(np.asarray(got)[:47], attend(case, step, Backend.REFERENCE, clean=True)[:47], 1e-5)
    np.testing.assert_array_equal(np.asarray(got)[47], 0)


def test_decode_rows() -> None:
    # rows: 1 token, 1 token, none, none
    cu, lens = jnp.array([0, 1, 2, 2, 2], jnp.int32), jnp.array([9, 4, 0, 0], jnp.int32)
    assert decode_rows(cu, lens, decode_only=True).tolist() == [[0, 1, 2, 3], [9, 4, 0, 0]]
    # rows: 1 token, 3 tokens, none
    cu, lens = jnp.array([0, 1, 4, 4], jnp.int32), jnp.array([9, 4, 0], jnp.int32)
    assert decode_rows(cu, lens, decode_only=False).tolist() == [[0, 1, 4], [9, -1, -1]]


def test_query_blocks() -> None:
    # rows: 1 token at length 9 (the decode kernel's), 5 tokens at length 7, 2 at length 2, none; then 2 of padding
    cu, lens = jnp.array([0, 1, 6, 8, 8], jnp.int32), jnp.array([9, 7, 2, 0], jnp.int32)
    row, token, count, position = query_blocks(cu, lens, num_tokens=10, q_tokens=4).tolist()
    assert count == [4, 1, 2, 2, 0, 0]  # as many tiles as the worst split of 10 tokens into 4 rows and padding
    assert row[:4] == [1, 1, 2, 0]
    assert token[:4] == [1, 5, 6, 8]
    assert position[:4] == [2, 6, 0, -4]  # padding sees nothing: its newest key is before the first


@pytest.mark.parametrize("q_lens", [(2, 2, 2, 2), (1, 1, 1, 5), (8, 0, 0, 0), (3, 5, 0, 0), (1, 0, 0, 0)])
@pytest.mark.parametrize("q_tokens", [1, 4, 16])
def test_query_blocks_cover_every_token_once(q_lens: tuple[int, ...], q_tokens: int) -> None:
    cu = jnp.array([0, *np.cumsum(q_lens)], jnp.int32)
    _, token, count, _ = np.asarray(query_blocks(cu, cu[1:] - cu[:-1], num_tokens=8, q_tokens=q_tokens))
    covered = [int(t) + i for t, n in zip(token, count, strict=True) for i in range(n)]
    assert sorted(covered) == list(range(q_lens.count(1), 8))  # one-token rows come first and are not its own


def test_block_sizes_that_are_no_power_of_two_are_refused() -> None:
    with pytest.raises(ValueError, match=r"block_size is 48"):
        replace(PROBLEM, block_size=48)
