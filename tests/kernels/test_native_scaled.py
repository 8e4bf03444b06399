"""Native attention over pools of 8 bits with scales, against the reference; free slots hold the worst there is."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from attention_steps import Case, Step, assert_close, attend, build
from native_backend import need

from pallas_kernels.backend import Backend

DECODE = ((1, 1), (1, 16), (1, 17), (1, 300), (1, 515))


def transposed(step: Step) -> Step:
    pool = replace(step.pool, k=jnp.swapaxes(step.pool.k, 2, 3))
    return replace(step, pool=pool)


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
@pytest.mark.parametrize("change", [{}, {"window": 33, "softcap": 5.0, "sinks": True, "head_dim": 72}], ids=str)
@pytest.mark.parametrize(("q_dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_scaled_pools(q_dtype: str, tolerance: float, dtype: str, change: dict[str, object]) -> None:
    need(Backend.NATIVE)
    base = Case(lens=DECODE, tokens=128, rows=8, heads=6, kv_heads=2, dtype=dtype, q_dtype=q_dtype)
    case = replace(base, lens=(*DECODE, (40, 40), (33, 100)), **change)  # pyright: ignore[reportArgumentType]
    step = build(case)
    got = attend(case, transposed(step), Backend.NATIVE)
    want = attend(case, step, Backend.REFERENCE, clean=True)
    assert_close(got[: step.num_real], want[: step.num_real], tolerance)
    np.testing.assert_array_equal(got[step.num_real :], 0)
