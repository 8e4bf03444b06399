"""What the configs of all families have in common: sizes, type, norm, activation, output head."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from jaxpaged.models.config import LayerConfig, ModelConfig, NormConfig, RopeConfig
from jaxpaged.models.families.ropes import longest_context, read_rope
from jaxpaged.models.families.windows import Windows
from jaxpaged.models.hf_config import HFConfig
from pallas_kernels.activations import ACTIVATIONS

CHECKPOINT_DTYPES = ("float32", "bfloat16", "float16")
_MOST_EXPERTS = 4096  # of a layer; a name is made for each


def read_decoder(
    config: HFConfig,
    name: str,
    *,
    windows: Windows,
    kv_heads: int,
    default_head_dim: int | None = None,
    default_theta: float = 10_000.0,
    default_eps: float = 1e-6,
    default_ffn: int | None = None,
    default_positions: int | None = None,
    default_tied: bool = False,
    activation: str = "hidden_act",
    default_activation: str = "silu",
    norm: NormConfig | None = None,
    rope: Callable[..., RopeConfig] | None = read_rope,
) -> ModelConfig:
    """A decoder in Llama's form, read from Llama's keys; a family replaces what is different.

    Defaults are transformers' own. activation: the key that names it. norm: None for the root mean square. rope: reads
    that of all layers, as `read_rope`; None where positions are not rotated in, and no key of a rope means anything.
    """
    embed, head_dim = config.integer("hidden_size"), read_head_dim(config, default=default_head_dim)
    max_positions, layer_rope = _integer(config, "max_position_embeddings", default_positions), None
    if rope is not None:
        layer_rope = rope(config, dims=head_dim, max_positions=max_positions, default_theta=default_theta)
        max_positions = longest_context(layer_rope, max_positions, config.context)
    return ModelConfig(
        architecture=name,
        dtype=checkpoint_dtype(config),
        vocab=config.integer("vocab_size"),
        embed=embed,
        heads=config.integer("num_attention_heads"),
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=_integer(config, "intermediate_size", default_ffn),
        layers=tuple(LayerConfig(window=window, rope=layer_rope) for window in windows),
        max_positions=max_positions,
        norm=norm or NormConfig(eps=config.number("rms_norm_eps", default=default_eps)),
        activation=config.choice(activation, ACTIVATIONS, default=default_activation),
        scale=head_dim**-0.5,
        tied=config.flag("tie_word_embeddings", default=default_tied),
    )


def read_layer_norm(config: HFConfig, key: str, *, bias: bool = True) -> NormConfig:
    """A norm by mean and variance. key: of its eps, 1e-5 where it is missing."""
    return NormConfig(kind="layer", eps=config.number(key, default=1e-5), bias=bias)


def _integer(config: HFConfig, key: str, default: int | None) -> int:
    return config.integer(key) if default is None else config.integer(key, default=default)


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
    experts, top_k = (
        config.integer(key, default=default, maximum=_MOST_EXPERTS) for key, default in zip(keys, defaults, strict=True)
    )
    if top_k > experts:
        raise config.refusal(keys[1], top_k, f"it must be at most {config.name_of(keys[0])}={experts}")
    return experts, top_k


def check_code(config: HFConfig, classes: Collection[str]) -> None:
    """Refuse code of a checkpoint's own but these classes, which transformers has long had; none is ever run."""
    code = config.get("auto_map") or {}
    models = [value for key, value in code.items() if key != "AutoTokenizer"] if isinstance(code, Mapping) else [code]
    for value in models:
        if not isinstance(value, str) or value.rpartition(".")[2] not in classes:
            raise config.unsupported("auto_map", value, f"implemented are {', '.join(classes)}")
