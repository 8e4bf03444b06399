"""The Triton attention kernels, interpreted, against the reference; null, free and stale slots hold NaN."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from attention_steps import Case, assert_close, attend, build, check, run
from jax import Array

from pallas_kernels.backend import Backend
from pallas_kernels.ragged_attention import triton_tiles
from pallas_kernels.ragged_attention.triton_decode import attend_decode, decode_rows
from pallas_kernels.ragged_attention.triton_mixed import attend_mixed, q_tokens_of, query_blocks
from pallas_kernels.ragged_attention.triton_tiles import Carry, Problem
from pallas_kernels.ragged_attention.tuning import Tuning

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
    check(case)


def test_a_broken_neighbour_changes_no_bit() -> None:
    case = Case(lens=((1, 33), (1, 20), (5, 40), (7, 9)), tokens=16, kv_heads=2)
    step = build(case)
    want = attend(case, step, Backend.TRITON)
    k = np.array(step.pool.k)
    k[step.block_tables[1, 0]] = np.nan
    k[step.block_tables[3, 0]] = np.nan
    got = attend(case, replace(step, pool=replace(step.pool, k=k)), Backend.TRITON)
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


@pytest.mark.parametrize("which", ["k_scale", "v_scale"])
def test_a_broken_scale_breaks_its_row_alone(which: str) -> None:
    case = Case(lens=((1, 33), (1, 20), (5, 40), (7, 9)), tokens=16, kv_heads=2, dtype="int8")
    step = build(case)
    want = attend(case, step, Backend.TRITON)
    scale = np.array(getattr(step.pool, which))
    scale[step.block_tables[1, 1], :, 2] = np.nan  # the third position of the second block: token 18
    scale[step.block_tables[3, 0], :, 4] = np.nan  # token 4, which the row's queries at 2 and 3 do not see
    got = attend(case, replace(step, pool=replace(step.pool, **{which: scale})), Backend.TRITON)
    assert np.isnan(got[1]).all()
    assert np.isnan(got[9:14]).all()
    intact = [0, *range(2, 9)]
    np.testing.assert_array_equal(got[intact], want[intact])


@pytest.mark.parametrize(
    ("case", "most"),
    [
        # a window of 40 keys lies in two or three tiles of 32; the queries of a tile of 8 tokens see 47 keys together
        (Case(lens=((1, 996), (1, 700), (1, 33)), tokens=4, window=40), 3),
        (Case(lens=((1, 1000), (5, 900), (30, 500)), tokens=64, window=40), 3),
        (Case(lens=((64, 1000),), tokens=64, rows=1, window=40), 3),
        (Case(lens=((1, 1000),), tokens=4), 32),
        (Case(lens=((64, 1000),), tokens=64, rows=1), 32),
    ],
    ids=["decode", "mixed", "prefill", "decode-no-window", "prefill-no-window"],
)
def test_no_work_behind_the_window(case: Case, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def count(tile: Array, carry: Carry, **_: object) -> Carry:
        highest, total, acc = carry  # a total of 0 divides by 1, so that the counts of a row's parts add up
        return jnp.zeros_like(highest), jnp.zeros_like(total), acc + 1

    monkeypatch.setattr(triton_tiles, "fold_tile", count)
    run.clear_cache()  # pyright: ignore[reportAttributeAccessIssue]
    step = build(case)
    tiles = attend(case, step, Backend.TRITON)[: step.num_real]
    run.clear_cache()  # pyright: ignore[reportAttributeAccessIssue]
    assert tiles.max() == most
    assert tiles.min() >= 2


PROBLEM = Problem(
    kv_heads=2, group=3, head_dim=64, block_size=16, window=None, scale=0.3, softcap=None, dtype="float32"
)


@pytest.mark.parametrize(("splits", "kv_tile", "window"), [(1, 16, 40), (2, 32, None), (8, 16, 40), (8, 16, None)])
def test_splits_change_nothing(splits: int, kv_tile: int, window: int | None) -> None:
    case = Case(lens=((1, 1), (1, 80), (1, 47)), tokens=4, heads=6, kv_heads=2, window=window, sinks=True)
    step = build(case)
    assert step.sinks is not None
    rows = decode_rows(jnp.asarray(step.cu_q_lens), jnp.asarray(step.kv_lens), decode_only=True)
    tuning = Tuning(q_tile=16, kv_tile=kv_tile, num_splits=splits, num_warps=4, num_stages=1)
    got = attend_decode(
        jnp.asarray(step.q),
        step.pool,
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
        step.pool,
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
