"""Attention that rotates its queries itself, against queries rotated before."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_steps import Case, assert_close, build
from native_backend import need

from pallas_kernels.backend import Backend
from pallas_kernels.ragged_attention import attention_work, ragged_attention
from pallas_kernels.rotate import rotate

LENS = ((1, 1), (1, 37), (1, 300), (40, 40), (33, 100))


@pytest.mark.parametrize("backend", [Backend.XLA, Backend.NATIVE])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize(("head_dim", "pairs"), [(64, 32), (72, 18), (80, 40)])
def test_rotates_as_rotate_does(backend: Backend, head_dim: int, pairs: int, dtype: str, tolerance: float) -> None:
    need(backend)
    case = Case(lens=LENS, tokens=96, rows=8, heads=6, kv_heads=2, head_dim=head_dim, dtype=dtype, q_dtype="float32")
    step = build(case)
    angles = np.random.default_rng(1).uniform(-4, 4, size=(case.tokens, pairs)).astype(np.float32)
    rope = (jnp.cos(angles), jnp.sin(angles))
    clean = jax.tree.map(jnp.asarray, step.clean)
    pool = replace(clean, k=jnp.swapaxes(clean.k, 2, 3))
    sizes = {"num_tokens": case.tokens, "block_size": clean.block_size, "window": None}
    lens = [jnp.asarray(lens) for lens in (step.cu_q_lens, step.kv_lens, step.block_tables)]
    q = jnp.asarray(step.q)
    work = attention_work(*lens, **sizes, backend=backend)
    got = ragged_attention(q, pool, work, scale=0.3, rope=rope, dtype=dtype)
    assert got.dtype == jnp.dtype(dtype)
    plain = attention_work(*lens, **sizes, backend=Backend.REFERENCE)
    want = ragged_attention(rotate(q, rope), clean, plain, scale=0.3)
    real = step.num_real
    assert_close(np.asarray(got[:real], np.float32), np.asarray(want[:real]), tolerance)
    still = ragged_attention(q, clean, plain, scale=0.3)
    assert float(jnp.abs(still - want)[:real].max()) > 0.1  # the table does turn them


def test_a_table_that_does_not_fit_is_refused() -> None:
    case = Case(lens=((1, 4),), tokens=8, rows=8, heads=2, kv_heads=1, head_dim=16, dtype="float32", q_dtype="float32")
    step = build(case)
    work = attention_work(
        *(jnp.asarray(lens) for lens in (step.cu_q_lens, step.kv_lens, step.block_tables)),
        num_tokens=case.tokens,
        block_size=step.clean.block_size,
        window=None,
        backend=Backend.REFERENCE,
    )
    with pytest.raises(ValueError, match=r"rope is \(8, 9\).*at most 8"):
        ragged_attention(jnp.asarray(step.q), step.clean, work, scale=1.0, rope=(jnp.ones((8, 9)), jnp.ones((8, 9))))
