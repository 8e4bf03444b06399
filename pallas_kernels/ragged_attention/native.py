"""Attention in C++ for CPUs (`pallas_kernels/native`): pools K [N, K, D, P] and V [N, K, P, D], P a multiple of 16.

The cost of a step follows the sum of its rows' lengths, however few the rows: one row's keys are chunks of 256, a
prompt's queries tiles, and all threads take them from one queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.native.library import obstacle
from pallas_kernels.rotate import RopeTable

if TYPE_CHECKING:
    from pallas_kernels.ragged_attention import AttentionWork


def make_work(
    cu_q_lens: Array, kv_lens: Array, block_tables: Array, *, num_tokens: int, block_size: int, window: int | None
) -> tuple[Array, ...]:
    """No maps: the kernel plans its work from the lengths."""
    del cu_q_lens, kv_lens, block_tables, num_tokens, block_size, window
    return ()


def attend(
    q: Array,
    pool: LayerPool,
    work: AttentionWork,
    *,
    scale: float,
    softcap: float | None,
    sinks: Array | None,
    rope: RopeTable | None,
    dtype: jnp.dtype,
) -> Array:
    """Attention of q [T, H, D], rotated where a table is given, -> [T, H, D] in `dtype`; zeros for padding tokens.

    Bits of a row do not depend on its neighbours, its place, the bucket, the threads, or where its prompt was cut; in
    a float32 pool decode and prefill give the same. dtype bfloat16 asks for no more than that: with AMX or AVX512-BF16,
    prompts over pools of 16 and 8 bits then have their probabilities rounded to it; sums are float32. Raises
    ValueError for a pool that the native backend does not serve.
    """
    if reason := obstacle(head_dim=pool.head_dim, block_size=pool.block_size, dtype=pool.dtype):
        raise ValueError(f"backend is native: {reason}")
    taken = jnp.bfloat16 if dtype == jnp.bfloat16 else jnp.float32
    nothing = jnp.zeros((0,), jnp.float32)
    cos, sin = (nothing, nothing) if rope is None else rope
    call = jax.ffi.ffi_call(f"jaxpaged_attention_{pool.dtype}", jax.ShapeDtypeStruct(q.shape, taken))
    out = call(
        q.astype(taken if rope is None else jnp.float32),
        cos,
        sin,
        pool.k,
        pool.v,
        nothing if pool.k_scale is None else pool.k_scale,
        nothing if pool.v_scale is None else pool.v_scale,
        nothing if sinks is None else sinks.astype(jnp.float32),
        work.cu_q_lens,
        work.kv_lens,
        work.block_tables,
        scale=np.float32(scale),
        softcap=np.float32(softcap or 0.0),
        window=np.int64(work.window or 0),
    )
    return out.astype(dtype)
