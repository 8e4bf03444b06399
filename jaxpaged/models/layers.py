"""One layer of the decoder: attention, feed-forward network or experts, and the norms around them.

Activations are float32 [T, ...] between dots. A feature of `ModelConfig` chooses a sub-module at construction; there
are no families here.
"""

from __future__ import annotations

from flax import nnx
from jax import Array

from jaxpaged.models.attention import Attention
from jaxpaged.models.config import Arrangement, LayerConfig, ModelConfig
from jaxpaged.models.context import StepContext
from jaxpaged.models.feed_forward import GatedMLP, PlainMLP
from jaxpaged.models.form import WeightForm
from jaxpaged.models.moe import MoE
from jaxpaged.models.norms import AnyNorm, make_norm
from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.ragged_attention import AttentionWork
from pallas_kernels.rotate import RopeTable

_NORMED_INS = (Arrangement.PRE, Arrangement.SANDWICH, Arrangement.PARALLEL)
_NORMED_OUTS = (Arrangement.POST, Arrangement.SANDWICH, Arrangement.AFTER)


class DecoderLayer(nnx.Module):
    """Attention and feed-forward network, as the model's arrangement says.

    attention_norm, ffn_norm: before the two; attention_out_norm, ffn_out_norm: of what they give, or (AFTER) of the
    sum.
    """

    def __init__(self, config: ModelConfig, layer: LayerConfig, *, form: WeightForm) -> None:
        self.arrangement, self.residual_scale = config.arrangement, config.residual_scale

        def norm(wanted: bool) -> AnyNorm | None:
            return make_norm(config.norm, (config.embed,), ("embed",)) if wanted else None

        ins, outs = self.arrangement in _NORMED_INS, self.arrangement in _NORMED_OUTS
        self.attention_norm = norm(ins)
        self.self_attn = Attention(config, form=form)
        self.attention_out_norm = norm(outs)
        self.ffn_norm = norm(ins and not config.one_norm)
        network = GatedMLP if config.gated else PlainMLP
        self.mlp = network(config, config.ffn, form=form) if layer.moe is None else None
        self.moe = None if layer.moe is None else MoE(config, layer.moe, form=form)
        self.ffn_out_norm = norm(outs)

    def __call__(
        self,
        x: Array,
        table: RopeTable | None,
        pool: LayerPool,
        context: StepContext,
        *,
        slots: Array,
        work: AttentionWork,
    ) -> tuple[Array, LayerPool]:
        """x f32[T, E] and the layer's pool -> the same after this layer. table: of its rope, None where it has none."""
        # products add the residual stream themselves where nothing comes between
        plain = self.residual_scale == 1.0 and self.arrangement not in (Arrangement.POST, Arrangement.SANDWICH)
        out, pool = self.self_attn(
            x, self.attention_norm, table, pool, slots=slots, work=work, residual=x if plain else None
        )
        after = out if plain else self._added(x, out, self.attention_out_norm)
        if self.arrangement == Arrangement.PARALLEL:
            norm = self.attention_norm if self.ffn_norm is None else self.ffn_norm
            out = self._feed_forward(x, norm, context, residual=after if plain else None)
            return out if plain else self._added(after, out, None), pool
        if self.arrangement == Arrangement.AFTER and self.attention_out_norm is not None:
            after = self.attention_out_norm(after)
        out = self._feed_forward(after, self.ffn_norm, context, residual=after if plain else None)
        if self.arrangement == Arrangement.AFTER and self.ffn_out_norm is not None:
            return self.ffn_out_norm(out), pool
        return out if plain else self._added(after, out, self.ffn_out_norm), pool

    def _added(self, x: Array, out: Array, norm: AnyNorm | None) -> Array:
        """The residual stream after a part gave `out`."""
        out = out if norm is None else norm(out)
        return x + (out if self.residual_scale == 1.0 else out * self.residual_scale)

    def _feed_forward(
        self, x: Array, norm: AnyNorm | None, context: StepContext, *, residual: Array | None = None
    ) -> Array:
        """The network of norm(x), plus residual."""
        if self.mlp is not None:
            return self.mlp(x, norm, residual=residual)
        assert self.moe is not None
        out = self.moe(x if norm is None else norm(x), context)
        return out if residual is None else residual + out
