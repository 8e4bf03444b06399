"""I-BITS of attention: a row's bits, whatever its neighbours, its place, its bucket and the cuts of its prompt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from dense_attention import (
    FAST,
    Case,
    Row,
    build,
    rows,
    run,
)
from native_backend import need

from pallas_kernels.backend import Backend


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
