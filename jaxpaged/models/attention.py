"""Grouped-query attention over the paged pool, with its products."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxpaged.models.config import ModelConfig, QKNormConfig
from jaxpaged.models.form import WeightForm
from jaxpaged.models.norms import AnyNorm, before_product, make_norm
from jaxpaged.models.params import Axes, Linear, declare
from pallas_kernels.backend import Backend
from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.ragged_attention import AttentionWork, ragged_attention
from pallas_kernels.rotate import RopeTable
from pallas_kernels.target import on_cpu
from pallas_kernels.write_kv import write_kv


class Attention(nnx.Module):
    """Queries, keys and values of normalised vectors, the pool, and the product behind it."""

    def __init__(self, config: ModelConfig, *, form: WeightForm) -> None:
        self.config, self.dtype = config, form.dtype
        kv_heads, head_dim = config.kv_heads, config.head_dim
        group = config.heads // kv_heads
        # per kv head: its G query heads, then k, then v, so that a shard of kv heads is a slice of the first axis
        outs, axes = (kv_heads, group + 2, head_dim), ("kv_heads", None, None)
        self.qkv_proj = Linear(outs, axes, (config.embed, "embed"), bias=config.qkv_bias, form=form)
        width = (config.heads * head_dim, "heads")
        self.o_proj = Linear((config.embed,), ("embed",), width, bias=config.o_bias, form=form)
        self.q_norm = None if config.qk_norm is None else _head_norm(config.qk_norm, config.heads, head_dim, "heads")
        self.k_norm = None if config.qk_norm is None else _head_norm(config.qk_norm, kv_heads, head_dim, "kv_heads")
        self.sinks = declare((config.heads,), ("heads",), "float32", init="zeros") if config.sinks else None

    def __call__(
        self,
        x: Array,
        norm: AnyNorm | None,
        table: RopeTable | None,
        pool: LayerPool,
        *,
        slots: Array,
        work: AttentionWork,
        residual: Array | None = None,
    ) -> tuple[Array, LayerPool]:
        """Attention of norm(x), x f32[T, E], plus residual: f32[T, E], and the pool with this step's tokens.

        table: of the layer's rope, None where it has none.
        """
        config, tokens, count = self.config, x.shape[0], work.count
        x, fused = before_product(x, norm)
        qkv = self.qkv_proj(x, norm=fused, count=count)  # [T, K, G + 2, D]
        q = qkv[:, :, :-2].reshape(tokens, config.heads, config.head_dim)
        k, v = qkv[:, :, -2], qkv[:, :, -1]  # [T, K, D]
        if config.qk_norm is not None and self.q_norm is not None and self.k_norm is not None:
            wide = config.qk_norm.over == "width"
            q, k = _normed_heads(q, self.q_norm, wide=wide), _normed_heads(k, self.k_norm, wide=wide)
        if config.qkv_clip is not None:
            q, k, v = (jnp.clip(part, -config.qkv_clip, config.qkv_clip) for part in (q, k, v))
        pool = write_kv(pool, k, v, slots, rope=table, backend=work.backend, tuning=work.tuning)
        # for kernels, what they multiply and the next product takes; XLA's CPU path keeps float32
        taken = self.dtype if not on_cpu() or work.backend == Backend.NATIVE else q.dtype
        out = ragged_attention(
            q,
            pool,
            work,
            scale=config.scale,
            softcap=config.softcap,
            sinks=None if self.sinks is None else self.sinks[...],
            rope=table,
            dtype=taken,
        )  # [T, H, D]
        return self.o_proj(out.reshape(tokens, -1), residual=residual, count=count), pool


def _head_norm(config: QKNormConfig, heads: int, head_dim: int, axis: str) -> AnyNorm:
    shape: tuple[int, ...]
    axes: Axes
    match config.over:
        case "head":
            shape, axes = (head_dim,), (None,)
        case "heads":
            shape, axes = (heads, head_dim), (axis if axis == "kv_heads" else None, None)
        case _:
            shape, axes = (heads * head_dim,), (axis if axis == "heads" else None,)
    return make_norm(config.norm, shape, axes)


def _normed_heads(x: Array, norm: AnyNorm, *, wide: bool) -> Array:
    """x [T, heads, D], each head normalised, or all of a token together."""
    return norm(x.reshape(x.shape[0], -1)).reshape(x.shape) if wide else norm(x)
