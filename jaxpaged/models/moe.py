"""Experts in place of the feed-forward network."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jaxpaged.models.config import ModelConfig, MoEConfig
from jaxpaged.models.context import StepContext
from jaxpaged.models.feed_forward import GatedMLP
from jaxpaged.models.form import WeightForm
from jaxpaged.models.params import Linear, declare, declare_matrix, expert_matrices
from pallas_kernels.activations import gated
from pallas_kernels.grouped_matmul import grouped_matmul


class MoE(nnx.Module):
    """Every token goes to its `top_k` experts, and only there; where there is a shared network, through that too."""

    def __init__(self, config: ModelConfig, moe: MoEConfig, *, form: WeightForm) -> None:
        self.moe, self.activation, self.form = moe, config.activation, form
        experts, ffn, embed = moe.experts, moe.ffn, config.embed
        # routing is a choice, so it is not left to bfloat16
        exact = WeightForm(dtype="float32")
        size = (embed, "embed")
        self.router = Linear((experts,), ("experts",), size, bias=moe.router_bias, form=exact)
        self.gate_up_proj, self.gate_up_proj_scale = declare_matrix(
            (experts, 2, ffn, embed), ("experts", None, "ffn", "embed"), form, sliced=True
        )
        self.down_proj, self.down_proj_scale = declare_matrix(
            (experts, embed, ffn), ("experts", "embed", "ffn"), form, sliced=True
        )
        biases = ((experts, 2, ffn), ("experts", None, "ffn")), ((experts, embed), ("experts", "embed"))
        self.gate_up_bias = declare(*biases[0], "float32", init="zeros") if moe.bias else None
        self.down_bias = declare(*biases[1], "float32", init="zeros") if moe.bias else None
        self.shared = GatedMLP(config, moe.shared_ffn, form=form) if moe.shared_ffn else None
        self.shared_gate = Linear((1,), (None,), size, bias=False, form=exact) if moe.shared_gate else None

    def __call__(self, x: Array, context: StepContext) -> Array:
        """x f32[T, E], normalised -> f32[T, E]; padding tokens go to no expert and get zeros from them."""
        moe, (tokens, embed) = self.moe, x.shape
        weights, experts = self._route(x)  # [T, top_k]
        # padding sorts behind every expert, where grouped_matmul does nothing
        chosen = jnp.where(context.real[:, None], experts, moe.experts).reshape(-1)  # [T * top_k]
        order = jnp.argsort(chosen, stable=True)
        sizes = jnp.sum(
            chosen[:, None] == jnp.arange(moe.experts, dtype=chosen.dtype)[None, :], axis=0, dtype=jnp.int32
        )
        # [T * top_k, E]
        out = self._experts(x[order // moe.top_k], chosen[order], sizes, context)
        # back by a gather: a scatter-add would sum in another order on every run of a GPU
        back = jnp.argsort(order)
        out = out[back].reshape(tokens, moe.top_k, embed)
        out = jnp.sum(out * weights[:, :, None], axis=1)
        return out if self.shared is None else out + self._shared(x, self.shared)

    def _route(self, x: Array) -> tuple[Array, Array]:
        """Weights f32[T, top_k] and experts i32[T, top_k] of x [T, E]."""
        moe, scores = self.moe, self.router(x)
        if moe.scoring == "softmax":
            scores = jax.nn.softmax(scores, axis=-1)
        weights, experts = lax.top_k(scores, moe.top_k)
        if moe.scoring == "top_k_softmax":
            weights = jax.nn.softmax(weights, axis=-1)
        if moe.renormalise:
            weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
        return weights, experts

    def _experts(self, rows: Array, chosen: Array, sizes: Array, context: StepContext) -> Array:
        """Rows [T * top_k, E], sorted by their experts `chosen`, through these: f32[T * top_k, E]."""
        multiply = partial(grouped_matmul, backend=context.backend, tuning=context.tuning)
        gate_up = multiply(rows, expert_matrices(self.gate_up_proj, self.gate_up_proj_scale, self.form), sizes)
        if self.gate_up_bias is not None:
            gate_up = gate_up + self.gate_up_bias[...].reshape(self.moe.experts, -1).at[chosen].get(mode="clip")
        hidden = gated(self.activation, gate_up[:, : self.moe.ffn], gate_up[:, self.moe.ffn :])
        out = multiply(hidden, expert_matrices(self.down_proj, self.down_proj_scale, self.form), sizes)
        if self.down_bias is None:
            return out
        bias = self.down_bias[...].at[chosen].get(mode="clip")
        return jnp.where((chosen < self.moe.experts)[:, None], out + bias, 0.0)

    def _shared(self, x: Array, shared: GatedMLP) -> Array:
        out = shared(x, None)
        return out if self.shared_gate is None else out * jax.nn.sigmoid(self.shared_gate(x))
