"""Gemma 1 to 3, and the text half of Gemma 3 alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from jaxpaged.models.config import Arrangement, ModelConfig, QKNormConfig, RopeConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import read_decoder, read_kv_heads
from jaxpaged.models.families.ropes import read_layer_rope, read_rope
from jaxpaged.models.families.windows import Windows, same_windows, window, windows_by_turns
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rules, llama_rules, norm_rules, plus_one

_TANH = "gelu_pytorch_tanh"
_GLOBAL_ROPE = partial(read_layer_rope, kind="full_attention", theta_key="rope_theta")  # of Gemma 3


def _gemma(config: HFConfig, name: str) -> ModelConfig:
    """Gemma 1. Its files say gelu for what its weights were trained with, the approximation by tanh."""
    model = _read(config, name, windows=same_windows(config, None), activation="hidden_act")
    activation = _TANH if model.activation == "gelu" else model.activation
    if config.get("hidden_activation") not in (None, "gelu", activation):
        raise config.unsupported("hidden_activation", config.get("hidden_activation"), f"hidden_act is {activation}")
    return replace(model, activation=activation)


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
    model = _read(config, name, windows=windows, activation=_activation(config), default_theta=1e6, rope=_GLOBAL_ROPE)
    local = read_layer_rope(
        config,
        kind="sliding_attention",
        theta_key="rope_local_base_freq",
        default_theta=1e4,
        dims=model.head_dim,
        max_positions=model.max_positions,
    )
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
    default_theta: float = 1e4,
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
        default_theta=default_theta,
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
    return windows_by_turns(config, size, every=every)


def _rules(model: ModelConfig) -> Rules:
    """All norms multiply by 1 + weight."""
    if model.arrangement == Arrangement.SANDWICH:
        rules = (
            *llama_rules(ffn_norm="pre_feedforward_layernorm"),
            *norm_rules(
                "model.layers.{i}",
                attention_out_norm="post_attention_layernorm",
                ffn_out_norm="post_feedforward_layernorm",
            ),
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
