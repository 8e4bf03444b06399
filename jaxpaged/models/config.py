"""What one decoder-only model is, in values: every family is an instance of `ModelConfig`.

Knows nothing of Hugging Face's words (`families.py` does) and nothing of arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxpaged.models.grouping import LayerKind, layers_per_block


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding of a layer. `kind` chooses how frequencies follow from the other fields.

    dims: leading dimensions of a head that are rotated, paired as halves. scale: factor on cos and sin (yarn's
    attention factor). original_positions: context of the unscaled training.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MoEConfig:
    """Experts in the place of a layer's feed-forward network: softmax over all, then the `top_k` likeliest.

    ffn: F of one expert. renormalise: the chosen weights are divided by their sum.
    """

    experts: int
    top_k: int
    ffn: int
    renormalise: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerConfig:
    """What may differ from layer to layer. window: keys j with p - window < j <= p are seen; None: all j <= p."""

    window: int | None
    rope: RopeConfig
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

    architecture: the name it was read from, for people. dtype: of the checkpoint. scale: factor on q.k.
    activation: a name in `pallas_kernels.activations`. tied: the output head is the embedding table. max_positions: the
    longest context the model is meant for.
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
    eps: float
    activation: str
    scale: float
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied: bool = False

    def __post_init__(self) -> None:
        assert self.layers, "a model has layers"
        assert self.heads % self.kv_heads == 0, f"{self.kv_heads} kv heads do not divide {self.heads} heads"

    def kv_groups(self) -> tuple[KVGroup, ...]:
        """Layers of one window, cut into groups of equal depth (`grouping`), in order of their first layers.

        A window that no context outgrows is none.
        """
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
        return tuple(dict.fromkeys(layer.rope for layer in self.layers))
