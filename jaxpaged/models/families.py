"""One function per Hugging Face architecture: from its config.json to values in `ModelConfig`.

A new family is an entry in `FAMILIES`; the decoder learns nothing of its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

from jaxpaged.errors import UnsupportedModelError
from jaxpaged.models.config import LayerConfig, ModelConfig, MoEConfig, RopeConfig
from jaxpaged.models.hf_config import HARMLESS, HFConfig
from jaxpaged.models.rope import FREQUENCIES, yarn_scale
from pallas_kernels.activations import ACTIVATIONS

CHECKPOINT_DTYPES = ("float32", "bfloat16", "float16")
_MOST_LAYERS = 1024  # a typing error must not build a million layers
Windows = tuple[int | None, ...]
Value = TypeVar("Value")


def read_config(config: Mapping[str, object]) -> ModelConfig:
    """The model that a parsed config.json describes, written by transformers 4 or 5.

    Raises UnsupportedModelError for an architecture, a value or a key that is not implemented, ModelError for a value
    that cannot be; both name the key.
    """
    reader = HFConfig(config)
    names = reader.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else names
    if not isinstance(name, str) or name not in FAMILIES:
        raise UnsupportedModelError(
            name="architectures",
            value=name,
            limit=f"implemented are {', '.join(sorted(FAMILIES))}",
            fix="Use a model of one of these architectures",
        )
    model = FAMILIES[name](reader, name)
    reader.refuse_unread(HARMLESS)
    return model


def _llama(config: HFConfig, name: str) -> ModelConfig:
    bias = config.flag("attention_bias", default=False)
    return _decoder(
        config,
        name,
        windows=_same_windows(config, None),
        kv_heads=_kv_heads(config, default="num_attention_heads"),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=config.flag("mlp_bias", default=False),
    )


def _qwen2(config: HFConfig, name: str) -> ModelConfig:
    return _decoder(config, name, windows=_late_windows(config), kv_heads=_kv_heads(config), qkv_bias=True)


def _qwen3(config: HFConfig, name: str) -> ModelConfig:
    bias = config.flag("attention_bias", default=False)
    return _decoder(
        config,
        name,
        windows=_late_windows(config),
        kv_heads=_kv_heads(config),
        default_head_dim=128,
        qkv_bias=bias,
        o_bias=bias,
        qk_norm=True,
    )


def _mistral(config: HFConfig, name: str) -> ModelConfig:
    windows = _same_windows(config, _window(config, default=4096))
    return _decoder(config, name, windows=windows, kv_heads=_kv_heads(config))


def _mixtral(config: HFConfig, name: str) -> ModelConfig:
    experts = config.integer("num_local_experts", default=8)
    top_k = config.integer("num_experts_per_tok", default=2)
    if top_k > experts:
        raise config.refusal("num_experts_per_tok", top_k, f"it must be at most num_local_experts={experts}")
    return _decoder(
        config,
        name,
        windows=_same_windows(config, _window(config, default=None)),
        kv_heads=_kv_heads(config),
        default_theta=1e6,
        default_eps=1e-5,
        moe=MoEConfig(experts=experts, top_k=top_k, ffn=config.integer("intermediate_size"), renormalise=True),
    )


FAMILIES: Mapping[str, Callable[[HFConfig, str], ModelConfig]] = MappingProxyType(
    {
        "LlamaForCausalLM": _llama,
        "MistralForCausalLM": _mistral,
        "MixtralForCausalLM": _mixtral,
        "Qwen2ForCausalLM": _qwen2,
        "Qwen3ForCausalLM": _qwen3,
    }
)


def _decoder(
    config: HFConfig,
    name: str,
    *,
    windows: Windows,
    kv_heads: int,
    default_head_dim: int | None = None,
    default_theta: float = 10_000.0,
    default_eps: float = 1e-6,
    moe: MoEConfig | None = None,
    qkv_bias: bool = False,
    o_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
) -> ModelConfig:
    """What all families have in common: sizes, rope, activation, output head. Defaults are transformers' own."""
    embed, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if config.get("head_dim") is None and default_head_dim is None and embed % heads:
        raise config.refusal(
            "num_attention_heads", heads, f"it must divide hidden_size={embed} where head_dim is not given"
        )
    head_dim = config.integer("head_dim", default=default_head_dim or embed // heads)
    if head_dim % 2:
        raise config.refusal("head_dim", head_dim, "it must be even: rotary embeddings turn pairs")
    max_positions = config.integer("max_position_embeddings")
    rope = _read_rope(config, dims=head_dim, max_positions=max_positions, default_theta=default_theta)
    if rope.kind == "yarn":
        max_positions = max(max_positions, int(rope.original_positions * rope.factor))
    return ModelConfig(
        architecture=name,
        dtype=_checkpoint_dtype(config),
        vocab=config.integer("vocab_size"),
        embed=embed,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=config.integer("intermediate_size"),
        layers=tuple(LayerConfig(window=window, rope=rope, moe=moe) for window in windows),
        max_positions=max_positions,
        eps=config.number("rms_norm_eps", default=default_eps),
        activation=config.choice("hidden_act", ACTIVATIONS, default="silu"),
        scale=head_dim**-0.5,
        qkv_bias=qkv_bias,
        o_bias=o_bias,
        mlp_bias=mlp_bias,
        qk_norm=qk_norm,
        tied=config.flag("tie_word_embeddings", default=False),
    )


def _num_layers(config: HFConfig) -> int:
    return config.integer("num_hidden_layers", maximum=_MOST_LAYERS)


def _kv_heads(config: HFConfig, default: str | None = None) -> int:
    """K. Null means one per head; so does a missing key where `default` says it."""
    heads = config.integer("num_attention_heads")
    absent = "num_key_value_heads" not in config and default is None
    if config.get("num_key_value_heads") is None and not absent:
        return heads
    kv_heads = config.integer("num_key_value_heads")
    if heads % kv_heads:
        raise config.refusal("num_key_value_heads", kv_heads, f"it must divide num_attention_heads={heads}")
    return kv_heads


def _checkpoint_dtype(config: HFConfig) -> str:
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


def _window(config: HFConfig, *, default: int | None) -> int | None:
    """`sliding_window`, where null says none and a missing key says the family's default."""
    return config.optional_integer("sliding_window") if "sliding_window" in config else default


def _same_windows(config: HFConfig, window: int | None) -> Windows:
    """One window for all layers, which is all that transformers does in these families."""
    windows = (window,) * _num_layers(config)
    if _layer_types(config, window) not in (None, windows):
        raise config.unsupported("layer_types", config.get("layer_types"), f"all layers must be alike here: {window=}")
    return windows


def _late_windows(config: HFConfig) -> Windows:
    """Windows by `layer_types`; in older configs the layers from `max_window_layers` on have one."""
    used = config.flag("use_sliding_window", default=False)
    window = _window(config, default=4096)
    first = config.integer("max_window_layers", default=28, minimum=0)
    window = window if used else None
    by_rule = tuple(window if layer >= first else None for layer in range(_num_layers(config)))
    return _layer_types(config, window) or by_rule


def _layer_types(config: HFConfig, window: int | None) -> Windows | None:
    """The window of every layer as `layer_types` states it; None where it does not."""
    types, layers = config.get("layer_types"), _num_layers(config)
    if types is None:
        return None
    if not isinstance(types, list) or len(types) != layers:
        raise config.refusal("layer_types", types, f"it must list num_hidden_layers={layers} types")
    for kind in types:
        if kind not in ("full_attention", "sliding_attention"):
            raise config.unsupported("layer_types", kind, "implemented are full_attention, sliding_attention")
    if window is None and "sliding_attention" in types:
        raise config.refusal("layer_types", "sliding_attention", "sliding_window gives no window for it")
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def _read_rope(config: HFConfig, *, dims: int, max_positions: int, default_theta: float) -> RopeConfig:
    """`rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (earlier)."""
    old, new = config.section("rope_scaling"), config.section("rope_parameters")
    if old and new and config.get("rope_scaling") != config.get("rope_parameters"):
        raise config.refusal("rope_scaling", config.get("rope_scaling"), "rope_parameters says otherwise", "Keep one")
    config.require_neutral(["partial_rotary_factor"], 1.0)
    section = new or old or HFConfig({}, section="rope_parameters")
    section.require_neutral(["partial_rotary_factor"], 1.0)
    theta = _agreed(section, "rope_theta", config.optional_number("rope_theta"), section.optional_number("rope_theta"))
    theta = default_theta if theta is None else theta
    kinds = [section.choice(key, FREQUENCIES) for key in ("type", "rope_type") if section.get(key) is not None]
    kind = _agreed(section, "rope_type", kinds[0], kinds[-1]) if kinds else "default"
    if kind == "default":
        rope = RopeConfig(kind=kind, theta=theta, dims=dims)
    elif kind == "linear":
        rope = RopeConfig(kind=kind, theta=theta, dims=dims, factor=section.number("factor"))
    else:
        key = "original_max_position_embeddings"
        outer, inner = config.optional_integer(key), section.optional_integer(key)
        original = outer or inner or max_positions  # transformers' order
        rope = (_llama3_rope if kind == "llama3" else _yarn_rope)(section, theta, dims, original, max_positions)
    section.refuse_unread()
    return rope


def _llama3_rope(section: HFConfig, theta: float, dims: int, original: int, max_positions: int) -> RopeConfig:
    del max_positions
    low, high = section.number("low_freq_factor"), section.number("high_freq_factor")
    if high <= low:
        raise section.refusal("high_freq_factor", high, f"it must be above low_freq_factor={low:g}")
    return RopeConfig(
        kind="llama3",
        theta=theta,
        dims=dims,
        original_positions=original,
        factor=section.number("factor"),
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _yarn_rope(section: HFConfig, theta: float, dims: int, original: int, max_positions: int) -> RopeConfig:
    factor = section.number("factor", default=max_positions / original)
    scale = yarn_scale(
        factor,
        section.optional_number("attention_factor"),
        section.optional_number("mscale"),
        section.optional_number("mscale_all_dim"),
    )
    return RopeConfig(
        kind="yarn",
        theta=theta,
        dims=dims,
        original_positions=original,
        factor=factor,
        beta_fast=section.number("beta_fast", default=32.0),
        beta_slow=section.number("beta_slow", default=1.0),
        truncate=section.flag("truncate", default=True),
        scale=scale,
    )


def _agreed(section: HFConfig, key: str, first: Value | None, second: Value | None) -> Value | None:
    """The one of two spellings that is there; they may not contradict each other."""
    if first is not None and second is not None and first != second:
        raise section.refusal(key, second, f"the config also says {first!r}", "Keep one")
    return second if first is None else first
