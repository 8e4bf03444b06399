"""Gemma 1 to 3, and the text half of Gemma 3 alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from jaxpaged.models.config import Arrangement, ModelConfig, QKNormConfig, RopeConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import read_decoder, read_kv_heads
from jaxpaged.models.families.ropes import read_parameters, read_rope
from jaxpaged.models.families.windows import Windows, layer_types, num_layers, same_windows, window
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rule, Rules, llama_rules, plus_one

_TANH = "gelu_pytorch_tanh"
_GLOBAL_THETA, _LOCAL_THETA = 1e6, 1e4  # of Gemma 3


def _gemma(config: HFConfig, name: str) -> ModelConfig:
    """Gemma 1. Its files say gelu for what its weights were trained with, the approximation by tanh."""
    key = "hidden_act" if config.get("hidden_activation") is None else "hidden_activation"
    model = _read(config, name, windows=same_windows(config, None), activation=key)
    return replace(model, activation=_TANH if model.activation == "gelu" else model.activation)


def _gemma2(config: HFConfig, name: str) -> ModelConfig:
    model = _read(config, name, windows=_turns(config, 2), activation=_activation(config))
    return replace(
        model,
        arrangement=Arrangement.SANDWICH,
        scale=config.number("query_pre_attn_scalar", default=256.0) ** -0.5,
        softcap=_softcap(config, "attn_logit_softcapping", default=50.0),
        logit_softcap=_softcap(config, "final_logit_softcapping", default=30.0),
    )


def _gemma3(config: HFConfig, name: str) -> ModelConfig:
    config.require_neutral(["attn_logit_softcapping"], None)  # transformers reads it and does nothing
    windows = _turns(config, config.integer("sliding_window_pattern", default=6))
    config.get("_sliding_window_pattern")  # what layer_types came from: transformers 5 writes it and never reads it
    model = _read(config, name, windows=windows, activation=_activation(config), rope=_global_rope)
    local = _local_rope(config, dims=model.head_dim, max_positions=model.max_positions)
    return replace(
        model,
        arrangement=Arrangement.SANDWICH,
        scale=config.number("query_pre_attn_scalar", default=256.0) ** -0.5,
        logit_softcap=_softcap(config, "final_logit_softcapping", default=None),
        qk_norm=QKNormConfig(norm=model.norm),
        layers=tuple(layer if layer.window is None else replace(layer, rope=local) for layer in model.layers),
    )


def _read(
    config: HFConfig,
    name: str,
    *,
    windows: Windows,
    activation: str,
    rope: Callable[..., RopeConfig] = read_rope,
) -> ModelConfig:
    """What all of them have in common."""
    config.require_neutral(["use_bidirectional_attention"], False)
    bias = config.flag("attention_bias", default=False)
    model = read_decoder(
        config,
        name,
        windows=windows,
        kv_heads=read_kv_heads(config),
        default_head_dim=256,
        default_tied=True,
        activation=activation,
        default_activation=_TANH,
        rope=rope,
    )
    return replace(model, qkv_bias=bias, o_bias=bias, embed_scale=model.embed**0.5, round_embed_scale=True)


def _activation(config: HFConfig) -> str:
    """The key that names it. The other one is there, too, and not heeded; only Gemma 1's gelu may be told by it."""
    other = config.get("hidden_act")
    if other not in (None, "gelu", config.get("hidden_activation")):
        raise config.unsupported("hidden_act", other, "hidden_activation says otherwise")
    return "hidden_activation"


def _softcap(config: HFConfig, key: str, *, default: float | None) -> float | None:
    return config.optional_number(key) if key in config else default


def _turns(config: HFConfig, every: int) -> Windows:
    """Windows by `layer_types`; in older configs all layers but every so many have one."""
    size = window(config, default=4096)
    if config.get("sliding_window_size") not in (None, size):
        raise config.unsupported("sliding_window_size", config.get("sliding_window_size"), f"sliding_window is {size}")
    by_rule = tuple(size if (layer + 1) % every else None for layer in range(num_layers(config)))
    return layer_types(config, size) or by_rule


def _global_rope(config: HFConfig, *, dims: int, max_positions: int, default_theta: float) -> RopeConfig:
    """Of the layers without a window: `rope_parameters.full_attention`, or `rope_theta` and `rope_scaling`."""
    del default_theta
    return _layer_rope(config, "full_attention", "rope_theta", _GLOBAL_THETA, dims=dims, max_positions=max_positions)


def _local_rope(config: HFConfig, *, dims: int, max_positions: int) -> RopeConfig:
    """Of those with a window: `rope_parameters.sliding_attention`, or `rope_local_base_freq`."""
    key = "rope_local_base_freq"
    return _layer_rope(config, "sliding_attention", key, _LOCAL_THETA, dims=dims, max_positions=max_positions)


def _layer_rope(
    config: HFConfig, kind: str, theta_key: str, default_theta: float, *, dims: int, max_positions: int
) -> RopeConfig:
    config.require_neutral(["partial_rotary_factor"], 1.0)
    by_kind, theta = config.section("rope_parameters"), config.optional_number(theta_key)
    section = None
    if by_kind is not None:
        # a section by layer type and nothing else
        section, _ = by_kind.section(kind), [by_kind.get(key) for key in ("full_attention", "sliding_attention")]
        by_kind.refuse_unread()
    if kind == "full_attention" and (old := config.section("rope_scaling")) is not None:
        if by_kind is not None:
            raise config.refusal(
                "rope_scaling", config.get("rope_scaling"), "there is rope_parameters, too", "Keep one"
            )
        section = old
    section = section or HFConfig({}, section=f"rope_parameters.{kind}")
    inner = section.optional_number("rope_theta")
    if None not in (theta, inner) and theta != inner:
        raise section.refusal("rope_theta", inner, f"{theta_key} is {theta:g}", "Keep one")
    theta = inner if theta is None else theta
    return read_parameters(
        section, dims=dims, max_positions=max_positions, theta=default_theta if theta is None else theta
    )


def _rules(model: ModelConfig) -> Rules:
    """All norms multiply by 1 + weight."""
    layer = "model.layers.{i}"
    if model.arrangement == Arrangement.SANDWICH:
        rules = (
            *llama_rules(ffn_norm="pre_feedforward_layernorm"),
            Rule(source=f"{layer}.post_attention_layernorm.weight", path="layers.{i}.attention_out_norm.weight"),
            Rule(source=f"{layer}.post_feedforward_layernorm.weight", path="layers.{i}.ffn_out_norm.weight"),
        )
    else:
        rules = llama_rules()
    return tuple(replace(rule, values=plus_one) if "norm" in rule.path else rule for rule in rules)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "GemmaForCausalLM": Family(read=_gemma, rules=_rules),
        "Gemma2ForCausalLM": Family(read=_gemma2, rules=_rules),
        "Gemma3ForCausalLM": Family(read=_gemma3, rules=_rules),
    }
)
