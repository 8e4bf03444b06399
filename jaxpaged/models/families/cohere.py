"""Cohere 2 (Command R7B): attention and network side by side behind one norm, positions where there is a window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from jaxpaged.models.config import Arrangement, ModelConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import read_decoder, read_kv_heads, read_layer_norm
from jaxpaged.models.families.windows import window, windows_by_turns
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rules, llama_rules, uninterleaved

_ALWAYS = ("use_embedding_sharing", "use_gated_activation", "use_parallel_block", "use_parallel_embedding")


def _cohere2(config: HFConfig, name: str) -> ModelConfig:
    config.require_neutral(_ALWAYS, True)
    config.require_neutral(["rotary_pct"], 1.0)
    config.require_neutral(["position_embedding_type"], "rope_gptj")
    config.require_neutral(["order_of_interleaved_layers"], "local_attn_first")
    every = config.integer("sliding_window_pattern", default=4)
    config.require_neutral(["layer_switch"], every)
    model = read_decoder(
        config,
        name,
        windows=windows_by_turns(config, window(config, default=4096), every=every),
        kv_heads=read_kv_heads(config, default="num_attention_heads"),
        default_tied=True,
        norm=read_layer_norm(config, "layer_norm_eps", bias=False),
    )
    bias = config.flag("attention_bias", default=False)
    return replace(
        model,
        arrangement=Arrangement.PARALLEL,
        one_norm=True,
        qkv_bias=bias,
        o_bias=bias,
        logit_scale=config.number("logit_scale", default=0.0625),
        layers=tuple(layer if layer.window is not None else replace(layer, rope=None) for layer in model.layers),
    )


def _rules(model: ModelConfig) -> Rules:
    return uninterleaved(llama_rules(), model)


FAMILIES: Mapping[str, Family] = MappingProxyType({"Cohere2ForCausalLM": Family(read=_cohere2, rules=_rules)})
