"""Every op's Triton kernel on a real GPU against the reference in float32, at the small shapes of `bench kernels`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpaged.bench.cases import QUICK, AttentionCase, GroupedCase, LinearCase, WriteCase
from jaxpaged.bench.programs import program_of
from pallas_kernels.backend import Backend
from pallas_kernels.grouped_matmul import grouped_matmul
from pallas_kernels.layer_pool import LayerPool, decode
from pallas_kernels.linear import linear
from pallas_kernels.ragged_attention import ragged_attention

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
