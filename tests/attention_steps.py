"""Steps for tests of attention: rows in randomly permuted blocks, every slot that holds no token poisoned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absent_device import BEFORE_0_11
from jax import Array

from pallas_kernels.backend import Backend
from pallas_kernels.layer_pool import LayerPool, encode
from pallas_kernels.pool_spec import pool_spec
from pallas_kernels.ragged_attention import attention_work, ragged_attention


@dataclass(frozen=True, kw_only=True)
class Case:
    """One step: (query tokens, length after the step) per row, padded to `tokens` and `rows`.

    width, blocks: of the table and of the pool, where they are to be the same for several cases.
    """

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
    width: int = 0
    blocks: int = 0


@dataclass(frozen=True, kw_only=True)
class Step:
    """The arrays of a case; the `clean` pool holds zeros where the other is poisoned."""

    q: np.ndarray
    pool: LayerPool
    clean: LayerPool
    cu_q_lens: np.ndarray
    kv_lens: np.ndarray
    block_tables: np.ndarray
    sinks: np.ndarray | None
    num_real: int


def build(case: Case, seed: int = 0) -> Step:
    """Random rows; a slot without a token is NaN where the pool's dtype has it, and so is its scale."""
    rng = np.random.default_rng(seed)
    size = case.block_size
    width = case.width or -(-max(n for _, n in case.lens) // size) + 1
    num_blocks = case.blocks or 3 + sum(-(-n // size) for _, n in case.lens)
    free = rng.permutation(np.arange(1, num_blocks)).tolist()
    live = np.zeros((num_blocks, 1, size), bool)
    tables = np.zeros((case.rows, width), np.int32)
    for row, (count, length) in enumerate(case.lens):
        for column in range(-(-length // size)):
            block = free.pop()
            if case.window is not None and (column + 1) * size <= length - count - case.window + 1:
                continue  # behind the window of the row's first query: given up, its entry names the null block
            tables[row, column] = block
            live[block, :, : min(size, length - column * size)] = True
    q_lens, kv_lens = np.zeros(case.rows, np.int32), np.zeros(case.rows, np.int32)
    q_lens[: len(case.lens)], kv_lens[: len(case.lens)] = np.array(case.lens, np.int32).T
    q = rng.normal(size=(case.tokens, case.heads, case.head_dim)).astype(np.float32)
    q[q_lens.sum() :] = np.nan
    shape = (num_blocks, case.kv_heads, size, case.head_dim)
    drawn = [np.where(live[..., None], rng.normal(size=shape), 0).astype(np.float32) for _ in "kv"]
    (k, k_scale), (v, v_scale) = (stored(values, case) for values in drawn)
    clean = LayerPool(k=k, v=v, k_scale=k_scale, v_scale=v_scale, dtype=case.dtype)
    return Step(
        q=q.astype(jnp.dtype(case.q_dtype)),
        pool=poisoned(clean, live),
        clean=clean,
        cu_q_lens=np.concatenate([[0], np.cumsum(q_lens)]).astype(np.int32),
        kv_lens=kv_lens,
        block_tables=tables,
        sinks=rng.normal(size=case.heads).astype(np.float32) if case.sinks else None,
        num_real=int(q_lens.sum()),
    )


def stored(values: np.ndarray, case: Case) -> tuple[Array, Array | None]:
    """Values [N, K, P, D] as a pool of the Triton backend holds them on a CPU, and their scales."""
    spec = pool_spec(
        Backend.TRITON,
        num_blocks=values.shape[0],
        block_size=case.block_size,
        kv_heads=case.kv_heads,
        head_dim=case.head_dim,
        dtype=case.dtype,
    )
    return encoded(values, dtype=case.dtype, storage=spec.storage)


@partial(jax.jit, static_argnames=("dtype", "storage"))
def encoded(values: Array, *, dtype: str, storage: jnp.dtype) -> tuple[Array, Array | None]:
    """As `encode`: one program for all pools of a shape."""
    return encode(values, dtype=dtype, storage=storage)


def poisoned(clean: LayerPool, live: np.ndarray) -> LayerPool:
    """The pool with the worst its dtype has in every slot that is not live [N, 1, P], and NaN in its scale."""
    # all bits of an exponent and of a mantissa: NaN in bfloat16, float16 and float8_e4m3fn
    worst = {"float32": np.nan, "uint16": 0x7FFF, "uint8": 0x7F, "int8": 127}[clean.k.dtype.name]
    k, v = (np.where(live[..., None], array, np.asarray(worst, array.dtype)) for array in (clean.k, clean.v))
    scales = [None if s is None else np.where(live, s, np.float32(np.nan)) for s in (clean.k_scale, clean.v_scale)]
    return replace(clean, k=k, v=v, k_scale=scales[0], v_scale=scales[1])


# An interpreted kernel is compiled once and run a few times: what XLA and LLVM would make faster costs more than it
# saves. test_attention_parity.py shows that XLA's own options give as good results.
CHEAP: Mapping[str, Any] = MappingProxyType(
    {"xla_backend_optimization_level": 0}
    # another generator of the same code for loops, twice as quick; from jax 0.11 on there is only the other one
    | ({"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1} if BEFORE_0_11 else {})
)


def body(
    q: Array, pool: LayerPool, lens: tuple[Array, ...], sinks: Array | None, *, case: Case, backend: Backend
) -> Array:
    work = attention_work(
        *lens, num_tokens=case.tokens, block_size=case.block_size, window=case.window, backend=backend
    )
    return ragged_attention(q, pool, work, scale=0.3, softcap=case.softcap, sinks=sinks)


def compiled_with(options: Mapping[str, Any]) -> Any:
    """`body`, jitted with XLA's options."""
    return jax.jit(body, static_argnames=("case", "backend"), compiler_options=dict(options))


run = compiled_with(CHEAP)


def attend(case: Case, step: Step, backend: Backend, *, clean: bool = False, run: Any = run) -> np.ndarray:
    """The backend's result in float32; the rows are no part of the compiled program."""
    lens = (step.cu_q_lens, step.kv_lens, step.block_tables)
    pool = step.clean if clean else step.pool
    out = run(step.q, pool, lens, step.sinks, case=replace(case, lens=()), backend=backend)
    assert out.dtype == step.q.dtype
    return np.asarray(out).astype(np.float32)


def assert_close(got: np.ndarray, want: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * float(np.abs(want).max()))


def check(case: Case, seed: int = 0) -> None:
    """The Triton kernels, interpreted, against the reference on the clean pool: 1e-5 in float32, else 2e-2."""
    step = build(case, seed)
    got = attend(case, step, Backend.TRITON)
    want = attend(case, step, Backend.REFERENCE, clean=True)
    assert_close(got[: step.num_real], want[: step.num_real], 1e-5 if case.dtype == "float32" else 2e-2)
    np.testing.assert_array_equal(got[step.num_real :], 0)
