"""What one decoder-only model is, in values: every family is an instance of `ModelConfig`.

Knows nothing of Hugging Face's words (`families.py` does) and nothing of arrays.
"""

from __future__ import annotations

from dataclasses import dataclass


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
    """Layers that share block tables. window: how far back any of them looks; None where one looks at everything."""

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
        """Layers by the kind of KV they keep: one group, whatever the windows."""
        windows = [layer.window for layer in self.layers]
        longest = None if None in windows else max(window for window in windows if window is not None)
        return (KVGroup(layers=tuple(range(len(self.layers))), window=longest),)

    def attention_kinds(self) -> tuple[AttentionKind, ...]:
        """Every distinct kind of the layers, in order of first use."""
        return tuple(dict.fromkeys(self.attention_kind(layer) for layer in range(len(self.layers))))

    def attention_kind(self, layer: int) -> AttentionKind:
        """The kind of one layer."""
        group = next(i for i, group in enumerate(self.kv_groups()) if layer in group.layers)
        return AttentionKind(group=group, window=self.layers[layer].window)

    def ropes(self) -> tuple[RopeConfig, ...]:
        """Every distinct rotary embedding of the layers, in order of first use."""
        return tuple(dict.fromkeys(layer.rope for layer in self.layers))
