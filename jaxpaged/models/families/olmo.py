"""OLMo 2 and 3: norms on what attention and network give, and on queries and keys over their whole width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from jaxpaged.models.config import Arrangement, ModelConfig, QKNormConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import read_decoder, read_kv_heads
from jaxpaged.models.families.ropes import read_layer_rope
from jaxpaged.models.families.windows import same_windows, window, windows_by_turns
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rules, llama_rules, norm_rules

_OLMO3_THETA = 500_000.0


def _olmo2(config: HFConfig, name: str) -> ModelConfig:
    windows, kv_heads = same_windows(config, None), read_kv_heads(config, default="num_attention_heads")
    return _changed(config, read_decoder(config, name, windows=windows, kv_heads=kv_heads, default_eps=1e-5))


def _olmo3(config: HFConfig, name: str) -> ModelConfig:
    """Older files scale the rope of the layers without a window alone, and have no word for the theta of the others."""
    model = read_decoder(
        config,
        name,
        windows=windows_by_turns(config, window(config, default=4096), every=4),
        kv_heads=read_kv_heads(config, default="num_attention_heads"),
        default_eps=1e-5,
        rope=partial(read_layer_rope, kind="full_attention", theta_key="rope_theta"),
        default_theta=_OLMO3_THETA,
    )
    local = read_layer_rope(
        config,
        kind="sliding_attention",
        theta_key=None,
        default_theta=_OLMO3_THETA,
        dims=model.head_dim,
        max_positions=model.max_positions,
    )
    layers = tuple(layer if layer.window is None else replace(layer, rope=local) for layer in model.layers)
    return _changed(config, replace(model, layers=layers))


def _changed(config: HFConfig, model: ModelConfig) -> ModelConfig:
    """What both have that Llama has not."""
    bias = config.flag("attention_bias", default=False)
    qk_norm = QKNormConfig(norm=model.norm, over="width")
    return replace(model, arrangement=Arrangement.POST, qkv_bias=bias, o_bias=bias, qk_norm=qk_norm)


def _rules(model: ModelConfig) -> Rules:
    del model
    return llama_rules(attention_norm=None, ffn_norm=None) + norm_rules(
        "model.layers.{i}",
        attention_out_norm="post_attention_layernorm",
        ffn_out_norm="post_feedforward_layernorm",
    )


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "Olmo2ForCausalLM": Family(read=_olmo2, rules=_rules),
        "Olmo3ForCausalLM": Family(read=_olmo3, rules=_rules),
    }
)
