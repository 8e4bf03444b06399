"""What the configs of all families have in common: sizes, type, norm, activation, output head."""

from __future__ import annotations

from jaxpaged.models.config import LayerConfig, ModelConfig, NormConfig
from jaxpaged.models.families.ropes import read_rope
from jaxpaged.models.families.windows import Windows
from jaxpaged.models.hf_config import HFConfig
from pallas_kernels.activations import ACTIVATIONS

CHECKPOINT_DTYPES = ("float32", "bfloat16", "float16")


def read_decoder(
    config: HFConfig,
    name: str,
    *,
    windows: Windows,
    kv_heads: int,
    default_head_dim: int | None = None,
    default_theta: float = 10_000.0,
    default_part: float | None = None,
    default_eps: float = 1e-6,
    default_tied: bool = False,
    default_activation: str = "silu",
    eps: str = "rms_norm_eps",
    activation: str = "hidden_act",
) -> ModelConfig:
    """A decoder in Llama's form, read from Llama's keys; a family replaces what is different.

    Defaults are transformers' own; default_part: see `read_rope`. eps, activation: the keys that say them.
    """
    embed, head_dim = config.integer("hidden_size"), read_head_dim(config, default=default_head_dim)
    max_positions = config.integer("max_position_embeddings")
    rope = read_rope(
        config,
        head_dim=head_dim,
        max_positions=max_positions,
        default_theta=default_theta,
        default_part=default_part,
    )
    if rope.kind == "yarn":
        max_positions = max(max_positions, int(rope.original_positions * rope.factor))
    return ModelConfig(
        architecture=name,
        dtype=checkpoint_dtype(config),
        vocab=config.integer("vocab_size"),
        embed=embed,
        heads=config.integer("num_attention_heads"),
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=config.integer("intermediate_size"),
        layers=tuple(LayerConfig(window=window, rope=rope) for window in windows),
        max_positions=max_positions,
        norm=NormConfig(eps=config.number(eps, default=default_eps)),
        activation=config.choice(activation, ACTIVATIONS, default=default_activation),
        scale=head_dim**-0.5,
        tied=config.flag("tie_word_embeddings", default=default_tied),
    )


def read_head_dim(config: HFConfig, *, default: int | None = None) -> int:
    """D: as given, or the default, or the heads' share of E. It is even."""
    embed, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if config.get("head_dim") is None and default is None and embed % heads:
        raise config.refusal(
            "num_attention_heads", heads, f"it must divide hidden_size={embed} where head_dim is not given"
        )
    head_dim = config.integer("head_dim", default=default or embed // heads)
    if head_dim % 2:
        raise config.refusal("head_dim", head_dim, "it must be even: rotary embeddings turn pairs")
    return head_dim


def read_kv_heads(config: HFConfig, default: str | None = None) -> int:
    """K. Null means one per head; so does a missing key where `default` says it."""
    heads = config.integer("num_attention_heads")
    absent = "num_key_value_heads" not in config and default is None
    if config.get("num_key_value_heads") is None and not absent:
        return heads
    kv_heads = config.integer("num_key_value_heads")
    if heads % kv_heads:
        raise config.refusal("num_key_value_heads", kv_heads, f"it must divide num_attention_heads={heads}")
    return kv_heads


def checkpoint_dtype(config: HFConfig) -> str:
    """transformers 5 writes `dtype`, earlier ones `torch_dtype`; without either, float32 as transformers has it."""
    key = "dtype" if config.get("dtype") is not None else "torch_dtype"
    value = config.get(key)
    plain = value.removeprefix("torch.") if isinstance(value, str) else value
    if plain is None:
        return "float32"
    if plain not in CHECKPOINT_DTYPES:
        raise config.unsupported(key, value, f"implemented are {', '.join(CHECKPOINT_DTYPES)}")
    assert isinstance(plain, str)
    return plain


def read_experts(config: HFConfig, keys: tuple[str, str], *, defaults: tuple[int, int]) -> tuple[int, int]:
    """Number of experts, and how many a token goes to: at most all. keys, defaults: of the two."""
    experts, top_k = (config.integer(key, default=default) for key, default in zip(keys, defaults, strict=True))
    if top_k > experts:
        raise config.refusal(keys[1], top_k, f"it must be at most {config.name_of(keys[0])}={experts}")
    return experts, top_k
