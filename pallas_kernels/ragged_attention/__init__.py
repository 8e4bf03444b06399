"""Causal attention of a step's packed queries over the paged KV pool: decode rows, prefill rows and mixtures.

Row i owns the query tokens cu_q_lens[i]..cu_q_lens[i+1]; its cache holds kv_lens[i] tokens, those of this step
included, so that its queries sit at positions kv_lens[i] - q_len .. kv_lens[i] - 1. The keys of positions
j*P .. j*P+P-1 lie in block block_tables[i, j]. A query at position p sees the keys j <= p, and with a window only
those with j > p - window. Rows with one token come first; padding rows have no token and kv_len 0, padding tokens
belong to no row. Slots outside a row's tokens may hold anything, NaN included.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from pallas_kernels.backend import Backend
from pallas_kernels.layer_pool import LayerPool, check_pool
from pallas_kernels.rotate import RopeTable, check_rope, rotate
from pallas_kernels.tuning import NO_TUNING, Table


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWork:
    """Which row reads which blocks in a step, in the form the backend wants. Made once, shared by all layers.

    cu_q_lens i32[S+1], kv_lens i32[S], block_tables i32[S, W]; derived: the backend's own maps. Static: num_tokens
    (T; T == S says that no row has more than one token), block_size (P), window, backend, tuning: a table that the
    kernels ask before the shipped one.
    """

    cu_q_lens: Array
    kv_lens: Array
    block_tables: Array
    derived: tuple[Array, ...]
    num_tokens: int = field(metadata={"static": True})
    block_size: int = field(metadata={"static": True})
    window: int | None = field(metadata={"static": True})
    backend: Backend = field(metadata={"static": True})
    tuning: Table = field(default=NO_TUNING, metadata={"static": True})

    @property
    def count(self) -> Array:
        """i32[1], the tokens of rows; they come before the padding."""
        return self.cu_q_lens[-1:]


def _implementation(backend: Backend) -> ModuleType:
    match backend:
        case Backend.REFERENCE:
            from pallas_kernels.ragged_attention import reference as module
        case Backend.XLA:
            from pallas_kernels.ragged_attention import xla as module
        case Backend.TRITON:
            from pallas_kernels.ragged_attention import triton as module
        case Backend.NATIVE:
            from pallas_kernels.ragged_attention import native as module
    return module


def attention_work(
    cu_q_lens: Array,
    kv_lens: Array,
    block_tables: Array,
    *,
    num_tokens: int,
    block_size: int,
    window: int | None,
    backend: Backend,
    tuning: Table = NO_TUNING,
) -> AttentionWork:
    """The maps of one step and window, computed on the device.

    cu_q_lens i32[S+1], kv_lens i32[S], block_tables i32[S, W]. num_tokens: T, at least S; T == S promises that no row
    has more than one token. tuning: entries to prefer to the shipped ones. Raises ValueError for shapes,
    dtypes or sizes that do not fit together.
    """
    num_rows = kv_lens.shape[0] if kv_lens.ndim == 1 else -1
    if cu_q_lens.shape != (num_rows + 1,) or block_tables.ndim != 2 or block_tables.shape[0] != num_rows:
        raise ValueError(
            f"cu_q_lens {cu_q_lens.shape}, kv_lens {kv_lens.shape} and block_tables {block_tables.shape} "
            "must be [S+1], [S] and [S, W]"
        )
    for name, array in (("cu_q_lens", cu_q_lens), ("kv_lens", kv_lens), ("block_tables", block_tables)):
        if array.dtype != jnp.int32:
            raise ValueError(f"{name} is {array.dtype}: it must be int32")
    if num_tokens < num_rows:
        raise ValueError(f"num_tokens is {num_tokens}: a step of {num_rows} rows has at least as many")
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}: it must be at least 1")
    if window is not None and window < 1:
        raise ValueError(f"window is {window}: it must be at least 1, or None for no window")
    derived = _implementation(backend).make_work(
        cu_q_lens, kv_lens, block_tables, num_tokens=num_tokens, block_size=block_size, window=window
    )
    return AttentionWork(
        cu_q_lens=cu_q_lens,
        kv_lens=kv_lens,
        block_tables=block_tables,
        derived=derived,
        num_tokens=num_tokens,
        block_size=block_size,
        window=window,
        backend=backend,
        tuning=tuning,
    )


def ragged_attention(
    q: Array,
    pool: LayerPool,
    work: AttentionWork,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Array | None = None,
    rope: RopeTable | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Attention output [T, H, D] in `dtype`; zeros for padding tokens and for rows with kv_len 0.

    q [T, H, D], query head h reads kv head h // (H / K). rope: rotate q by this table first (`rotate`). dtype: what q
    is rounded to then, by default what it is. pool: one layer's, as `pool_spec` of the work's backend lays it out;
    where it has scales, those of the keys multiply the scores and those of the values the probabilities. Scores are
    q.k * scale, then softcap * tanh(score / softcap) where softcap is given. sinks [H]: a logit per head that takes
    part in the softmax's denominator and has no value. Softmax and sums are float32.

    Raises ValueError for shapes that do not fit the work or the pool.
    """
    if q.ndim != 3 or q.shape[0] != work.num_tokens:
        raise ValueError(f"q is {q.shape}: the work is for [{work.num_tokens}, H, D]")
    num_heads, head_dim = q.shape[1:]
    check_pool(pool, backend=work.backend, block_size=work.block_size, head_dim=head_dim)
    if num_heads % pool.kv_heads:
        raise ValueError(f"q has {num_heads} heads: the pool's {pool.kv_heads} must divide them")
    if rope is not None:
        check_rope(rope, num_tokens=q.shape[0], head_dim=head_dim)
    if softcap is not None and softcap <= 0:
        raise ValueError(f"softcap is {softcap}: it must be above 0, or None for none")
    if sinks is not None and sinks.shape != (num_heads,):
        raise ValueError(f"sinks is {sinks.shape}: it must be [{num_heads}]")
    dtype = jnp.dtype(q.dtype if dtype is None else dtype)
    options = {"scale": scale, "softcap": softcap, "sinks": sinks}
    module = _implementation(work.backend)
    if work.backend == Backend.NATIVE:
        return module.attend(q, pool, work, **options, rope=rope, dtype=dtype)
    return module.attend((q if rope is None else rotate(q, rope)).astype(dtype), pool, work, **options)


__all__ = ["AttentionWork", "attention_work", "ragged_attention"]
