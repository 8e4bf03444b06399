"""The parts of a decoder layer. Every parameter declares its shape and logical axes here, once.

Activations are float32 [T, ...] between dots. A feature of `ModelConfig` chooses a sub-module at construction; there
are no families here. Modules are built abstract (shapes, no arrays): weights come by `decoder.unflatten`.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jaxpaged.models.config import LayerConfig, ModelConfig, MoEConfig
from jaxpaged.models.context import StepContext
from jaxpaged.models.form import WeightForm
from pallas_kernels.activations import ACTIVATIONS
from pallas_kernels.backend import Backend
from pallas_kernels.grouped_matmul import grouped_matmul
from pallas_kernels.int8 import Int8Weight
from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.linear import Weight, linear
from pallas_kernels.mlp import mlp
from pallas_kernels.norm import Norm, rms_norm
from pallas_kernels.packed import PackedWeight, can_pack, packed_shape
from pallas_kernels.packed_f32 import PackedF32Weight, can_pack_f32, packed_f32_shape
from pallas_kernels.packed_int8 import PackedInt8Weight, packed_int8_shape
from pallas_kernels.ragged_attention import AttentionWork, ragged_attention
from pallas_kernels.rotate import RopeTable
from pallas_kernels.target import on_cpu
from pallas_kernels.write_kv import write_kv

Axes = tuple[str | None, ...]


def declare(shape: tuple[int, ...], axes: Axes, dtype: str, *, init: str = "normal") -> nnx.Param:
    """A parameter without its array. axes: the logical axis of every dimension, None where it is never sharded.

    init: "normal" (variance 1 / last dimension), "ones" or "zeros", for models without weights; "scale": those of the
    int8 parameter of the same name without "_scale".
    """
    return _declare(jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)), shape, axes, dtype, init=init)


def declare_matrix(
    shape: tuple[int, ...], axes: Axes, form: WeightForm, *, sliced: bool = False
) -> tuple[nnx.Param, nnx.Param | None]:
    """A parameter [*outs, A] of products, and the scales [*outs] of a quantised one.

    sliced: read piece by piece in a loop, and never packed; on CPU such bfloat16 arrays are held as the uint16 of their
    bits, since XLA would copy them whole.
    """
    outs, ins = math.prod(shape[:-1]), shape[-1]
    if form.quantization:
        packed = form.packed and not sliced
        stored = (packed_int8_shape(outs, ins), jnp.uint32) if packed else (shape, jnp.int8)
        scale = declare(shape[:-1], axes[:-1], "float32", init="scale")
        return _declare(jax.ShapeDtypeStruct(*stored), shape, axes, "int8", packed=packed), scale
    if form.packed and not sliced and (packed := _packed(outs, ins, form.dtype)) is not None:
        return _declare(packed, shape, axes, form.dtype, packed=True), None
    as_bits = sliced and form.dtype == "bfloat16" and on_cpu()
    plain = jax.ShapeDtypeStruct(shape, jnp.uint16 if as_bits else jnp.dtype(form.dtype))
    return _declare(plain, shape, axes, form.dtype), None


def _packed(outs: int, ins: int, dtype: str) -> jax.ShapeDtypeStruct | None:
    """What holds a matrix in its packed form, None where it has none."""
    if dtype == "float32":
        return jax.ShapeDtypeStruct(packed_f32_shape(outs, ins), jnp.float32) if can_pack_f32(outs) else None
    return jax.ShapeDtypeStruct(packed_shape(outs, ins), jnp.uint32) if can_pack(outs, ins, dtype) else None


def _declare(
    stored: jax.ShapeDtypeStruct,
    shape: tuple[int, ...],
    axes: Axes,
    dtype: str,
    *,
    init: str = "normal",
    packed: bool = False,
) -> nnx.Param:
    assert len(shape) == len(axes), f"{shape} has another rank than {axes}"
    return nnx.Param(stored, axes=axes, init=init, logical=dtype, declared=shape, packed=packed)


def matrix(param: nnx.Param, scale: nnx.Param | None, form: WeightForm) -> Weight:
    """A parameter [*outs, A] and its scales as `linear` takes them."""
    ins = param.declared[-1]
    if scale is None:
        if not param.packed:
            return param[...].reshape(-1, ins)
        return PackedF32Weight(panels=param[...]) if form.dtype == "float32" else PackedWeight(tiles=param[...])
    scales = scale[...].reshape(-1)
    if param.packed:
        return PackedInt8Weight(tiles=param[...], scales=scales, ins=ins)
    return Int8Weight(values=param[...].reshape(-1, ins), scales=scales, dtype=form.dtype)


def expert_matrices(param: nnx.Param, scale: nnx.Param | None, form: WeightForm) -> Array | Int8Weight:
    """A parameter [X, *outs, A] and its scales as `grouped_matmul` takes them."""
    experts, *_, ins = param.declared
    values = param[...].reshape(experts, -1, ins)
    if scale is None:
        return values
    return Int8Weight(values=values, scales=scale[...].reshape(experts, -1), dtype=form.dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) * weight over the last dimension, in float32. axis: the logical axis of that dimension."""

    def __init__(self, size: int, axis: str | None, *, eps: float) -> None:
        self.eps = eps
        self.weight = declare((size,), (axis,), "float32", init="ones")

    def __call__(self, x: Array) -> Array:
        return rms_norm(x, self.norm())

    def norm(self) -> Norm:
        """What a product takes that normalises its rows itself."""
        return Norm(weight=self.weight[...], eps=self.eps)


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
        form: WeightForm,
    ) -> None:
        self.outs, self.form = outs, form
        self.weight, self.weight_scale = declare_matrix((*outs, ins[0]), (*axes, ins[1]), form)
        self.bias = declare(outs, axes, "float32", init="zeros") if bias else None

    def __call__(
        self, x: Array, *, norm: Norm | None = None, residual: Array | None = None, count: Array | None = None
    ) -> Array:
        out = linear(x, self.matrix(), self.flat_bias(), norm=norm, residual=residual, count=count)
        return out.reshape(-1, *self.outs)

    def matrix(self) -> Weight:
        """The weight [B, A], where B counts all outs."""
        return matrix(self.weight, self.weight_scale, self.form)

    def flat_bias(self) -> Array | None:
        """The bias [B]."""
        return None if self.bias is None else self.bias[...].reshape(-1)


class Attention(nnx.Module):
    """Grouped-query attention over the paged pool, behind a norm and around the residual stream."""

    def __init__(self, config: ModelConfig, *, form: WeightForm) -> None:
        self.config, self.dtype = config, form.dtype
        kv_heads, head_dim = config.kv_heads, config.head_dim
        group = config.heads // kv_heads
        # per kv head: its G query heads, then k, then v, so that a shard of kv heads is a slice of the first axis
        outs, axes = (kv_heads, group + 2, head_dim), ("kv_heads", None, None)
        self.qkv_proj = Linear(outs, axes, (config.embed, "embed"), bias=config.qkv_bias, form=form)
        width = (config.heads * head_dim, "heads")
        self.o_proj = Linear((config.embed,), ("embed",), width, bias=config.o_bias, form=form)
        self.q_norm = RMSNorm(head_dim, None, eps=config.eps) if config.qk_norm else None
        self.k_norm = RMSNorm(head_dim, None, eps=config.eps) if config.qk_norm else None

    def __call__(
        self,
        x: Array,
        norm: Norm,
        table: RopeTable,
        pool: LayerPool,
        *,
        slots: Array,
        work: AttentionWork,
    ) -> tuple[Array, LayerPool]:
        """x f32[T, E], rope table, the layer's pool -> f32[T, E] and the pool with this step's tokens."""
        config, tokens, count = self.config, x.shape[0], work.cu_q_lens[-1:]
        qkv = self.qkv_proj(x, norm=norm, count=count)  # [T, K, G + 2, D]
        q = qkv[:, :, :-2].reshape(tokens, config.heads, config.head_dim)
        k, v = qkv[:, :, -2], qkv[:, :, -1]  # [T, K, D]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        pool = write_kv(pool, k, v, slots, rope=table, backend=work.backend, tuning=work.tuning)
        # for kernels, what they multiply and the next product takes; XLA's CPU path keeps float32
        taken = self.dtype if not on_cpu() or work.backend == Backend.NATIVE else q.dtype
        out = ragged_attention(q, pool, work, scale=config.scale, rope=table, dtype=taken)  # [T, H, D]
        return self.o_proj(out.reshape(tokens, -1), residual=x, count=count), pool


class MLP(nnx.Module):
    """Gated feed-forward network behind a norm and around the residual stream."""

    def __init__(self, config: ModelConfig, *, form: WeightForm) -> None:
        self.activation = config.activation
        bias, ffn = config.mlp_bias, config.ffn
        size = (config.embed, "embed")
        self.gate_up_proj = Linear((2, ffn), (None, "ffn"), size, bias=bias, form=form)
        self.down_proj = Linear((config.embed,), ("embed",), (ffn, "ffn"), bias=bias, form=form)

    def __call__(self, x: Array, norm: Norm, count: Array) -> Array:
        """x f32[T, E] -> f32[T, E]. count: i32[1], the tokens that are no padding."""
        return mlp(
            x,
            self.gate_up_proj.matrix(),
            self.down_proj.matrix(),
            activation=self.activation,
            gate_up_bias=self.gate_up_proj.flat_bias(),
            down_bias=self.down_proj.flat_bias(),
            norm=norm,
            residual=x,
            count=count,
        )


class MoE(nnx.Module):
    """Experts in place of the MLP: every token goes to its `top_k` experts, and only there."""

    def __init__(self, config: ModelConfig, moe: MoEConfig, *, form: WeightForm) -> None:
        self.moe, self.activation, self.form = moe, config.activation, form
        experts, ffn, embed = moe.experts, moe.ffn, config.embed
        # routing is a choice, so it is not left to bfloat16
        self.router = Linear((experts,), ("experts",), (embed, "embed"), bias=False, form=WeightForm(dtype="float32"))
        self.gate_up_proj, self.gate_up_proj_scale = declare_matrix(
            (experts, 2, ffn, embed), ("experts", None, "ffn", "embed"), form, sliced=True
        )
        self.down_proj, self.down_proj_scale = declare_matrix(
            (experts, embed, ffn), ("experts", "embed", "ffn"), form, sliced=True
        )

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
        multiply = partial(grouped_matmul, backend=context.backend, tuning=context.tuning)
        gate_up = multiply(rows, expert_matrices(self.gate_up_proj, self.gate_up_proj_scale, self.form), sizes)
        gate, up = gate_up[:, : moe.ffn], gate_up[:, moe.ffn :]
        hidden = ACTIVATIONS[self.activation](gate) * up
        # [T * top_k, E]
        out = multiply(hidden, expert_matrices(self.down_proj, self.down_proj_scale, self.form), sizes)
        # back by a gather: a scatter-add would sum in another order on every run of a GPU
        back = jnp.argsort(order)
        out = out[back].reshape(tokens, moe.top_k, embed)
        return jnp.sum(out * weights[:, :, None], axis=1)


class DecoderLayer(nnx.Module):
    """Attention and feed-forward network."""

    def __init__(self, config: ModelConfig, layer: LayerConfig, *, form: WeightForm) -> None:
        self.input_layernorm = RMSNorm(config.embed, "embed", eps=config.eps)
        self.self_attn = Attention(config, form=form)
        self.post_attention_layernorm = RMSNorm(config.embed, "embed", eps=config.eps)
        self.mlp = MLP(config, form=form) if layer.moe is None else None
        self.moe = MoE(config, layer.moe, form=form) if layer.moe is not None else None

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
        x, pool = self.self_attn(x, self.input_layernorm.norm(), table, pool, slots=slots, work=work)
        if self.mlp is not None:
            x = self.mlp(x, self.post_attention_layernorm.norm(), work.cu_q_lens[-1:])
        if self.moe is not None:
            x = x + self.moe(self.post_attention_layernorm(x), context)
        return x, pool
