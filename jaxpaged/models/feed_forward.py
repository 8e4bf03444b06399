"""The feed-forward network of a layer: gated or plain."""

from __future__ import annotations

from flax import nnx
from jax import Array

from jaxpaged.models.config import ModelConfig
from jaxpaged.models.form import WeightForm
from jaxpaged.models.norms import AnyNorm, before_product
from jaxpaged.models.params import Linear
from pallas_kernels.activations import ACTIVATIONS
from pallas_kernels.mlp import mlp


class GatedMLP(nnx.Module):
    """Two products side by side, the one gating the other, and one behind."""

    def __init__(self, config: ModelConfig, ffn: int, *, form: WeightForm) -> None:
        self.activation = config.activation
        size = (config.embed, "embed")
        self.gate_up_proj = Linear((2, ffn), (None, "ffn"), size, bias=config.mlp_bias, form=form)
        self.down_proj = Linear((config.embed,), ("embed",), (ffn, "ffn"), bias=config.mlp_bias, form=form)

    def __call__(self, x: Array, norm: AnyNorm | None, *, residual: Array | None = None) -> Array:
        """The network of norm(x), x f32[T, E], plus residual: f32[T, E]."""
        x, fused = before_product(x, norm)
        return mlp(
            x,
            self.gate_up_proj.matrix(),
            self.down_proj.matrix(),
            activation=self.activation,
            gate_up_bias=self.gate_up_proj.flat_bias(),
            down_bias=self.down_proj.flat_bias(),
            norm=fused,
            residual=residual,
        )


class PlainMLP(nnx.Module):
    """Two products, and an activation between them."""

    def __init__(self, config: ModelConfig, ffn: int, *, form: WeightForm) -> None:
        self.activation = config.activation
        self.up_proj = Linear((ffn,), ("ffn",), (config.embed, "embed"), bias=config.mlp_bias, form=form)
        self.down_proj = Linear((config.embed,), ("embed",), (ffn, "ffn"), bias=config.mlp_bias, form=form)

    def __call__(self, x: Array, norm: AnyNorm | None, *, residual: Array | None = None) -> Array:
        """As of `GatedMLP`."""
        x, fused = before_product(x, norm)
        hidden = ACTIVATIONS[self.activation](self.up_proj(x, norm=fused))  # [T, F]
        return self.down_proj(hidden, residual=residual)
