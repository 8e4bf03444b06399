"""What one decoder-only model is, in values: every family is an instance of `ModelConfig`.

Knows nothing of Hugging Face's words (`families` does) and nothing of arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from jaxpaged.models.grouping import LayerKind, layers_per_block


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding of a layer. `kind` chooses how frequencies follow from the other fields.

    dims: leading dimensions of a head that are rotated, paired as halves. scale: factor on cos and sin (yarn's
    attention factor). original_positions: context of the unscaled training. factors: a divisor for every pair's
    frequency (longrope).
    """

    kind: str  # a name in rope.FREQUENCIES
    theta: float
    dims: int
    factor: float = 1.0
    original_positions: int = 0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn
    scale: float = 1.0
    factors: tuple[float, ...] = ()  # longrope


@dataclass(frozen=True, slots=True, kw_only=True)
class NormConfig:
    """kind: "rms" or "layer" (by mean and variance). bias: of a layer norm."""

    kind: str = "rms"
    eps: float
    bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QKNormConfig:
    """Norm of queries and keys before they are rotated.

    over: "head": each head alone, one weight [D] for all; "heads": each head alone, with a weight of its own; "width":
    all heads of a token together.
    """

    norm: NormConfig
    over: str = "head"


@dataclass(frozen=True, slots=True, kw_only=True)
class MoEConfig:
    """Experts in the place of a layer's feed-forward network, `top_k` for every token.

    ffn: F of one expert. scoring: "softmax" over all experts, then the likeliest, or "top_k_softmax", over the chosen
    alone. renormalise: the chosen weights are divided by their sum. router_bias, bias: whether the router, the experts'
    products have one. shared_ffn: F of a network that every token goes through besides, 0 for none; shared_gate: its
    result times the sigmoid of a product.
    """

    experts: int
    top_k: int
    ffn: int
    renormalise: bool
    scoring: str = "softmax"
    router_bias: bool = False
    bias: bool = False
    shared_ffn: int = 0
    shared_gate: bool = False


class Arrangement(StrEnum):
    """How norms, attention and feed-forward network stand around the residual stream x (a: attention, f: network)."""

    PRE = "pre"  # x += a(n(x)); x += f(n(x))
    POST = "post"  # x += n(a(x)); x += n(f(x))
    SANDWICH = "sandwich"  # x += n(a(n(x))); x += n(f(n(x)))
    PARALLEL = "parallel"  # x += a(n(x)) + f(m(x)); m may be n itself
    AFTER = "after"  # x = n(x + a(x)); x = n(x + f(x)): of the first transformers


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerConfig:
    """What may differ from layer to layer. window: keys j with p - window < j <= p are seen; None: all j <= p.

    rope: None where positions are not rotated in.
    """

    window: int | None
    rope: RopeConfig | None
    moe: MoEConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KVGroup:
    """Layers that share a block table: the k-th of them writes to the k-th array of the pool.

    window: how far back they look; None where that is everything.
    """

    layers: tuple[int, ...]
    window: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionKind:
    """What layers must share to share one `AttentionWork`: the group (an index) and the window."""

    group: int
    window: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A decoder of equal-width layers: E `embed`, H `heads`, K `kv_heads`, D `head_dim`, F `ffn`, V `vocab`.

    architecture: the name it was read from. dtype: of the checkpoint. max_positions: the longest context that the model
    is meant for.
    Around the layers: embed_scale multiplies token vectors, rounded to the type of the weights where
    round_embed_scale says so; embed_width: their own width where E is another, brought to
    E and back by a product; positions: rows of a table of learned positions, added to the vectors (0: none), of which
    token p gets row p + position_offset; final_norm: before the output head; tied: the head is the embedding table;
    head_bias; logit_scale and then logit_softcap, t * tanh(x / t), are on the logits.
    one_kv_group: all layers are one KV group, whose blocks are never given up, whatever their windows.
    In a layer: arrangement; one_norm: of PARALLEL, m is n; residual_scale multiplies what is added to the residual
    stream; norm: of all these norms. gated: the network has a gate; activation: a name in
    `pallas_kernels.activations`. scale: factor on q.k; softcap: on the scores; sinks: a logit per head that takes part
    in the softmax; qkv_clip: queries, keys and values are clipped to it, after their norms.
    """

    architecture: str
    dtype: str
    vocab: int
    embed: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    layers: tuple[LayerConfig, ...]
    max_positions: int
    norm: NormConfig
    activation: str
    scale: float
    gated: bool = True
    arrangement: Arrangement = Arrangement.PRE
    one_norm: bool = False
    residual_scale: float = 1.0
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: QKNormConfig | None = None
    qkv_clip: float | None = None
    softcap: float | None = None
    sinks: bool = False
    embed_scale: float = 1.0
    round_embed_scale: bool = False
    embed_width: int | None = None
    positions: int = 0
    position_offset: int = 0
    final_norm: bool = True
    tied: bool = False
    head_bias: bool = False
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    one_kv_group: bool = False

    def __post_init__(self) -> None:
        assert self.layers, "a model has layers"
        assert self.heads % self.kv_heads == 0, f"{self.kv_heads} kv heads do not divide {self.heads} heads"
        assert not self.one_norm or self.arrangement == Arrangement.PARALLEL

    def kv_groups(self) -> tuple[KVGroup, ...]:
        """Layers of one window, cut into groups of equal depth (`grouping`), in order of their first layers.

        A window that no context outgrows is none.
        """
        if self.one_kv_group:
            return (KVGroup(layers=tuple(range(len(self.layers))), window=None),)
        kinds: dict[int | None, list[int]] = {}
        for i, layer in enumerate(self.layers):
            bounded = layer.window is not None and layer.window < self.max_positions
            kinds.setdefault(layer.window if bounded else None, []).append(i)
        depth = layers_per_block(
            [LayerKind(layers=len(layers), tokens=window or self.max_positions) for window, layers in kinds.items()]
        )
        groups = [
            KVGroup(layers=tuple(layers[first : first + depth]), window=window)
            for window, layers in kinds.items()
            for first in range(0, len(layers), depth)
        ]
        return tuple(sorted(groups, key=lambda group: group.layers[0]))

    def kv_windows(self) -> tuple[int | None, ...]:
        """How far back each KV group looks, in tokens."""
        return tuple(group.window for group in self.kv_groups())

    def kv_arrays(self) -> int:
        """Arrays of the pool: the layers of the deepest group."""
        return max(len(group.layers) for group in self.kv_groups())

    def kv_places(self) -> tuple[int, ...]:
        """The array of the pool that each layer writes to."""
        places = {layer: place for group in self.kv_groups() for place, layer in enumerate(group.layers)}
        return tuple(places[layer] for layer in range(len(self.layers)))

    def layer_kinds(self) -> tuple[AttentionKind, ...]:
        """The kind of each layer."""
        groups = {layer: number for number, group in enumerate(self.kv_groups()) for layer in group.layers}
        return tuple(AttentionKind(group=groups[i], window=layer.window) for i, layer in enumerate(self.layers))

    def attention_kinds(self) -> tuple[AttentionKind, ...]:
        """Every distinct kind of the layers, in order of first use."""
        return tuple(dict.fromkeys(self.layer_kinds()))

    def ropes(self) -> tuple[RopeConfig, ...]:
        """Every distinct rotary embedding of the layers, in order of first use."""
        return tuple(dict.fromkeys(layer.rope for layer in self.layers if layer.rope is not None))
