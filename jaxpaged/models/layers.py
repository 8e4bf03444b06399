"""The parts of a decoder layer. Every parameter declares its shape and logical axes here, once.

Activations are float32 [T, ...] between dots. A feature of `ModelConfig` chooses a sub-module at construction; there
are no families here. Modules are built abstract (shapes, no arrays): weights come by `decoder.unflatten`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jaxpaged.models.config import LayerConfig, ModelConfig, MoEConfig
from jaxpaged.models.context import StepContext
from pallas_kernels.backend import Backend
from pallas_kernels.grouped_matmul import grouped_matmul
from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.linear import linear, row_means
from pallas_kernels.packed import PackedWeight, can_pack, packed_shape
from pallas_kernels.ragged_attention import AttentionWork, ragged_attention
from pallas_kernels.rotate import RopeTable
from pallas_kernels.target import on_cpu
from pallas_kernels.write_kv import write_kv

Axes = tuple[str | None, ...]

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "silu": jax.nn.silu,
        "gelu": partial(jax.nn.gelu, approximate=False),
        "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    }
)


def declare(
    shape: tuple[int, ...],
    axes: Axes,
    dtype: str,
    *,
    init: str = "normal",
    sliced: bool = False,
    packed: bool = False,
) -> nnx.Param:
    """A parameter without its array. axes: the logical axis of every dimension, None where it is never sharded.

    init: "normal" (variance 1 / last dimension), "ones" or "zeros", for models without weights. sliced: read piece by
    piece in a loop; on CPU such bfloat16 arrays are held as the uint16 of their bits, since XLA would copy them whole.
    packed: hold a matrix as the tiles of `pallas_kernels.packed`, where its sizes allow.
    """
    assert len(shape) == len(axes), f"{shape} has another rank than {axes}"
    as_bits = sliced and dtype == "bfloat16" and on_cpu()
    outs, ins = math.prod(shape[:-1]), shape[-1]
    if packed := packed and can_pack(outs, ins, dtype):
        stored = jax.ShapeDtypeStruct(packed_shape(outs, ins), jnp.uint32)
    else:
        stored = jax.ShapeDtypeStruct(shape, jnp.uint16 if as_bits else jnp.dtype(dtype))
    return nnx.Param(stored, axes=axes, init=init, logical=dtype, declared=shape, packed=packed)


def matrix(param: nnx.Param) -> Array | PackedWeight:
    """A parameter [*outs, A] as `linear` takes it."""
    if param.packed:
        return PackedWeight(tiles=param[...])
    return param[...].reshape(-1, param.declared[-1])


class RMSNorm(nnx.Module):
    """x / rms(x) * weight over the last dimension, in float32. axis: the logical axis of that dimension."""

    def __init__(self, size: int, axis: str | None, *, eps: float) -> None:
        self.eps = eps
        self.weight = declare((size,), (axis,), "float32", init="ones")

    def __call__(self, x: Array) -> Array:
        x = x * lax.rsqrt(row_means(jnp.square(x)) + self.eps)
        return x * jnp.broadcast_to(self.weight[...], x.shape)


class Linear(nnx.Module):
    """x [T, A] -> f32[T, *outs]. The weight [*outs, A] says by its shape what was fused into it.

    axes: of outs. ins: A and its axis.
    """

    def __init__(
        self,
        outs: tuple[int, ...],
        axes: Axes,
        ins: tuple[int, str | None],
        *,
        bias: bool,
        dtype: str,
        packed: bool = False,
    ) -> None:
        self.outs = outs
        self.weight = declare((*outs, ins[0]), (*axes, ins[1]), dtype, packed=packed)
        self.bias = declare(outs, axes, "float32", init="zeros") if bias else None

    def __call__(self, x: Array) -> Array:
        bias = None if self.bias is None else self.bias[...].reshape(-1)
        return linear(x, matrix(self.weight), bias).reshape(-1, *self.outs)


class Attention(nnx.Module):
    """Grouped-query attention over the paged pool."""

    def __init__(self, config: ModelConfig, *, dtype: str, packed: bool = False) -> None:
        self.config, self.dtype = config, dtype
        kv_heads, head_dim = config.kv_heads, config.head_dim
        group = config.heads // kv_heads
        # per kv head: its G query heads, then k, then v, so that a shard of kv heads is a slice of the first axis
        outs, axes = (kv_heads, group + 2, head_dim), ("kv_heads", None, None)
        self.qkv_proj = Linear(outs, axes, (config.embed, "embed"), bias=config.qkv_bias, dtype=dtype, packed=packed)
        width = (config.heads * head_dim, "heads")
        self.o_proj = Linear((config.embed,), ("embed",), width, bias=config.o_bias, dtype=dtype, packed=packed)
        self.q_norm = RMSNorm(head_dim, None, eps=config.eps) if config.qk_norm else None
        self.k_norm = RMSNorm(head_dim, None, eps=config.eps) if config.qk_norm else None

    def __call__(
        self,
        x: Array,
        table: RopeTable,
        pool: LayerPool,
        *,
        slots: Array,
        work: AttentionWork,
    ) -> tuple[Array, LayerPool]:
        """x f32[T, E], rope table, the layer's pool -> f32[T, E] and the pool with this step's tokens."""
        config, tokens = self.config, x.shape[0]
        qkv = self.qkv_proj(x)  # [T, K, G + 2, D]
        q = qkv[:, :, :-2].reshape(tokens, config.heads, config.head_dim)
        k, v = qkv[:, :, -2], qkv[:, :, -1]  # [T, K, D]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        pool = write_kv(pool, k, v, slots, rope=table, backend=work.backend, tuning=work.tuning)
        # for kernels, what they multiply and the next product takes; XLA's CPU path keeps float32
        taken = self.dtype if not on_cpu() or work.backend == Backend.NATIVE else q.dtype
        out = ragged_attention(q, pool, work, scale=config.scale, rope=table, dtype=taken)  # [T, H, D]
        return self.o_proj(out.reshape(tokens, -1)), pool


class MLP(nnx.Module):
    """Gated feed-forward network: down(activation(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig, *, dtype: str, packed: bool = False) -> None:
        self.activation = config.activation
        bias, ffn = config.mlp_bias, config.ffn
        size = (config.embed, "embed")
        self.gate_up_proj = Linear((2, ffn), (None, "ffn"), size, bias=bias, dtype=dtype, packed=packed)
        self.down_proj = Linear((config.embed,), ("embed",), (ffn, "ffn"), bias=bias, dtype=dtype, packed=packed)

    def __call__(self, x: Array) -> Array:
        """x f32[T, E] -> f32[T, E]."""
        gate_up = self.gate_up_proj(x)  # [T, 2, F]
        return self.down_proj(ACTIVATIONS[self.activation](gate_up[:, 0]) * gate_up[:, 1])


class MoE(nnx.Module):
    """Experts in place of the MLP: every token goes to its `top_k` experts, and only there."""

    def __init__(self, config: ModelConfig, moe: MoEConfig, *, dtype: str) -> None:
        self.moe, self.activation = moe, config.activation
        experts, ffn, embed = moe.experts, moe.ffn, config.embed
        # routing is a choice, so it is not left to bfloat16
        self.router = Linear((experts,), ("experts",), (embed, "embed"), bias=False, dtype="float32")
        self.gate_up_proj = declare((experts, 2, ffn, embed), ("experts", None, "ffn", "embed"), dtype, sliced=True)
        self.down_proj = declare((experts, embed, ffn), ("experts", "embed", "ffn"), dtype, sliced=True)

    def __call__(self, x: Array, context: StepContext) -> Array:
        """x f32[T, E] -> f32[T, E]; padding tokens go to no expert and get zeros."""
        moe, (tokens, embed) = self.moe, x.shape
        weights, experts = lax.top_k(jax.nn.softmax(self.router(x), axis=-1), moe.top_k)  # [T, top_k]
        if moe.renormalise:
            weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
        # padding sorts behind every expert, where grouped_matmul does nothing
        chosen = jnp.where(context.real[:, None], experts, moe.experts).reshape(-1)  # [T * top_k]
        order = jnp.argsort(chosen, stable=True)
        sizes = jnp.sum(
            chosen[:, None] == jnp.arange(moe.experts, dtype=chosen.dtype)[None, :], axis=0, dtype=jnp.int32
        )
        rows = x[order // moe.top_k]  # [T * top_k, E]
        gate_up_weight = self.gate_up_proj[...].reshape(moe.experts, 2 * moe.ffn, embed)
        multiply = partial(grouped_matmul, backend=context.backend, tuning=context.tuning)
        gate_up = multiply(rows, gate_up_weight, sizes)
        gate, up = gate_up[:, : moe.ffn], gate_up[:, moe.ffn :]
        hidden = ACTIVATIONS[self.activation](gate) * up
        out = multiply(hidden, self.down_proj[...], sizes)  # [T * top_k, E]
        # back by a gather: a scatter-add would sum in another order on every run of a GPU
        back = jnp.argsort(order)
        out = out[back].reshape(tokens, moe.top_k, embed)
        return jnp.sum(out * weights[:, :, None], axis=1)


class DecoderLayer(nnx.Module):
    """Attention and feed-forward network, each behind a norm and around the residual stream."""

    def __init__(self, config: ModelConfig, layer: LayerConfig, *, dtype: str, packed: bool = False) -> None:
        self.input_layernorm = RMSNorm(config.embed, "embed", eps=config.eps)
        self.self_attn = Attention(config, dtype=dtype, packed=packed)
        self.post_attention_layernorm = RMSNorm(config.embed, "embed", eps=config.eps)
        self.mlp = MLP(config, dtype=dtype, packed=packed) if layer.moe is None else None
        self.moe = MoE(config, layer.moe, dtype=dtype) if layer.moe is not None else None

    def __call__(
        self,
        x: Array,
        table: RopeTable,
        pool: LayerPool,
        context: StepContext,
        *,
        slots: Array,
        work: AttentionWork,
    ) -> tuple[Array, LayerPool]:
        """x f32[T, E] and the layer's pool -> the same after this layer."""
        attended, pool = self.self_attn(self.input_layernorm(x), table, pool, slots=slots, work=work)
        x = x + attended
        normed = self.post_attention_layernorm(x)
        if self.mlp is not None:
            x = x + self.mlp(normed)
        if self.moe is not None:
            x = x + self.moe(normed, context)
        return x, pool
