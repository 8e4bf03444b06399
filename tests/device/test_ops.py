"""Every op's Triton kernel on a real GPU against the reference in float32, at the small shapes of `bench kernels`.

On a CPU the kernels are interpreted: `pytest -m gpu -n0 -W default tests/device` shows that the tests themselves run.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpaged.bench.cases import QUICK, AttentionCase, GroupedCase, LinearCase, WriteCase
from jaxpaged.bench.programs import program_of
from pallas_kernels.backend import Backend
from pallas_kernels.grouped_matmul import grouped_matmul
from pallas_kernels.layer_pool import LayerPool, decode, encode
from pallas_kernels.linear import linear
from pallas_kernels.pool_spec import DTYPES, pool_spec
from pallas_kernels.ragged_attention import attention_work, ragged_attention
from pallas_kernels.target import Target, assume_target, current_target, on_cpu
from pallas_kernels.top_k import top_k

pytestmark = pytest.mark.gpu

EXACT = {"float32": 1e-5, "bfloat16": 2e-2}
"""Relative to the largest value of the reference. 8-bit pools: both read the same bits, so as bfloat16's."""


def assert_close(got: Any, want: Any, tolerance: float) -> None:
    got, want = (np.asarray(values, np.float32) for values in (got, want))
    assert np.isfinite(want).all()
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * float(np.abs(want).max()))


def of_type(kind: type, *, dtypes: tuple[str, ...] = ("float32", "bfloat16")) -> list[Any]:
    """(case, dtype) for the quick cases of a kind; a case that says its dtype keeps it."""
    cases = [case for case in QUICK if isinstance(case, kind)]
    pairs = [(case, dtype) for case in cases for dtype in ([case.dtype] if case.dtype else dtypes)]
    return [pytest.param(case, dtype, id=f"{case.name}-{dtype}") for case, dtype in pairs]


def with_dtype(case: Any, dtype: str) -> Any:
    return replace(case, dtype=dtype)


@pytest.mark.parametrize(("case", "dtype"), of_type(AttentionCase))
def test_ragged_attention(case: AttentionCase, dtype: str) -> None:
    found = {}
    for backend in (Backend.TRITON, Backend.REFERENCE):
        program = program_of(with_dtype(case, dtype), backend)
        pools, work = program.operands
        with jax.default_matmul_precision("highest"):
            found[backend] = jax.jit(ragged_attention, static_argnames="scale")(
                program.state, pools[0], work, scale=case.head_dim**-0.5
            )
    assert_close(found[Backend.TRITON], found[Backend.REFERENCE], EXACT.get(dtype, EXACT["bfloat16"]))


@pytest.mark.parametrize(("case", "dtype"), of_type(WriteCase))
def test_write_kv(case: WriteCase, dtype: str) -> None:
    found: dict[Backend, LayerPool] = {}
    for backend in (Backend.TRITON, Backend.REFERENCE):
        program = program_of(with_dtype(case, dtype), backend)
        found[backend] = jax.jit(program.body)(program.state, program.operands)[0]
    ours, wanted = found[Backend.TRITON], found[Backend.REFERENCE]
    for name in ("k", "v"):
        got, want = (values(pool, name)[1:] for pool in (ours, wanted))  # block 0 is nobody's
        # one step of rounding where the products before it differ in their last bit
        assert_close(got, want, {"float32": 1e-6, "bfloat16": 2**-8, "int8": 1 / 127}.get(dtype, 1 / 8))


def values(pool: LayerPool, name: str) -> np.ndarray:
    stored, scale = getattr(pool, name), getattr(pool, f"{name}_scale")
    found = np.asarray(decode(stored, pool.dtype))
    return found if scale is None else found * np.asarray(scale)[..., None]


@pytest.mark.parametrize(("case", "dtype"), of_type(GroupedCase))
def test_grouped_matmul(case: GroupedCase, dtype: str) -> None:
    program = program_of(with_dtype(case, dtype), Backend.TRITON)
    weights, (sizes,) = program.operands
    with jax.default_matmul_precision("highest"):
        got, want = (
            jax.jit(grouped_matmul, static_argnames="backend")(program.state, weights[0], sizes, backend=backend)
            for backend in (Backend.TRITON, Backend.REFERENCE)
        )
    assert_close(got, want, EXACT[dtype])


@pytest.mark.parametrize(("case", "dtype"), of_type(LinearCase))
def test_linear(case: LinearCase, dtype: str) -> None:
    program = program_of(with_dtype(case, dtype), Backend.TRITON)
    x, w = program.state, program.operands[0][0]
    exact = np.asarray(x.astype(w.dtype), np.float64) @ np.asarray(w.astype(jnp.float32), np.float64).T
    assert_close(jax.jit(linear)(x, w), exact, 1e-5)


@pytest.mark.parametrize(("rows", "vocab", "k"), [(3, 5000, 20), (1, 8191, 255), (16, 128_256, 256), (2, 50, 50)])
def test_top_k(rows: int, vocab: int, k: int) -> None:
    rng = np.random.default_rng(0)
    program = jax.jit(lambda x: top_k(x, k))
    for levels in (3, 1000, None):  # few: ties everywhere
        drawn = rng.normal(size=(rows, vocab)) if levels is None else rng.integers(0, levels, size=(rows, vocab))
        x = drawn.astype(np.float32)
        x[0, k // 2 :] = -np.inf  # a row with fewer tokens allowed than asked for
        with assume_target(Target(platform="cuda")) if on_cpu() else nullcontext():  # a CPU has another program
            values, ids = map(np.asarray, program(x))
        want = np.argsort(-x, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(ids, want)
        np.testing.assert_array_equal(values, np.take_along_axis(x, want, axis=1))


CUTS = ((0, 64, 192, 300), (0, 37, 99, 163, 300))
"""Chunks of a prompt: at multiples of CHUNK_ALIGN, as the scheduler cuts, and inside the kernel's tiles."""
# A CPU shows the second at XLA's level 0 alone. By default its compiler seems to sum products of bfloat16 in another
# order in the loop over tiles that every query sees whole than in the one over tiles that are masked.
INTERPRETED = {"xla_backend_optimization_level": 0}


@pytest.mark.parametrize(("dtype", "window"), [*((dtype, None) for dtype in DTYPES), ("bfloat16", 100)])
def test_chunk_boundaries_change_no_bit(dtype: str, window: int | None) -> None:
    tokens, heads, kv_heads, head_dim, block_size = 320, 8, 2, 64, 16
    length = CUTS[0][-1]
    width = -(-length // block_size)
    spec = pool_spec(
        Backend.TRITON,
        num_blocks=width + 1,
        block_size=block_size,
        kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        platform=current_target().platform,
    )
    keys = iter(jax.random.split(jax.random.key(0), 3))
    shape = (width + 1, kv_heads, block_size, head_dim)
    (k, k_scale), (v, v_scale) = (encode(jax.random.normal(next(keys), shape), dtype, spec.storage) for _ in "kv")
    pool = LayerPool(k=k, v=v, k_scale=k_scale, v_scale=v_scale, dtype=dtype)
    q = np.asarray(jax.random.normal(next(keys), (length, heads, head_dim)))
    table = jnp.stack([1 + jnp.arange(width), jnp.zeros(width, jnp.int32)]).astype(jnp.int32)

    @partial(jax.jit, compiler_options=INTERPRETED if on_cpu() else {})
    def attend(q: Any, pool: LayerPool, cu_q_lens: Any, kv_lens: Any) -> Any:
        work = attention_work(
            cu_q_lens,
            kv_lens,
            table,
            num_tokens=tokens,
            block_size=block_size,
            window=window,
            backend=Backend.TRITON,
        )
        return ragged_attention(q, pool, work, scale=head_dim**-0.5)

    def chunk(first: int, last: int) -> np.ndarray:
        count = last - first
        padded = np.zeros((tokens, heads, head_dim), np.float32)
        padded[:count] = q[first:last]
        lens = (np.array([0, count, count], np.int32), np.array([last, 0], np.int32))
        return np.asarray(attend(padded, pool, *lens))[:count]

    whole = chunk(0, length)
    for cuts in CUTS:
        parts = np.concatenate([chunk(first, last) for first, last in pairwise(cuts)])
        np.testing.assert_array_equal(parts, whole, err_msg=f"cut at {cuts}")
