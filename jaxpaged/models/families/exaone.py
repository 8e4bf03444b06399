"""EXAONE 4: norms on what attention and network give, and no positions in the layers that see everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from jaxpaged.models.config import Arrangement, ModelConfig, QKNormConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import read_decoder, read_kv_heads
from jaxpaged.models.families.windows import Windows, num_layers, window, windows_by_turns
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rules, llama_rules, norm_rules


def _exaone4(config: HFConfig, name: str) -> ModelConfig:
    size = window(config, default=4096)
    model = read_decoder(config, name, windows=_windows(config, size), kv_heads=read_kv_heads(config), default_eps=1e-5)
    # a model without any window has positions everywhere
    layers = tuple(
        replace(layer, rope=None) if size is not None and layer.window is None else layer for layer in model.layers
    )
    return replace(model, layers=layers, arrangement=Arrangement.POST, qk_norm=QKNormConfig(norm=model.norm))


def _windows(config: HFConfig, size: int | None) -> Windows:
    """By `layer_types`, or by a pattern: a number, or letters L (a window) and G in turn."""
    pattern = config.get("sliding_window_pattern")
    if isinstance(pattern, str):
        if not pattern or set(pattern) - {"L", "G"}:
            raise config.refusal("sliding_window_pattern", pattern, "it must consist of the letters L and G")
        kinds = [pattern[layer % len(pattern)] for layer in range(num_layers(config))]
        return (
            windows_by_turns(config, size, every=None)
            if config.get("layer_types") is not None
            else tuple(size if kind == "L" else None for kind in kinds)
        )
    every = config.integer("sliding_window_pattern", default=4, minimum=0)
    return windows_by_turns(config, size, every=every or None)


def _rules(model: ModelConfig) -> Rules:
    del model
    return llama_rules(attention_norm=None, ffn_norm=None) + norm_rules(
        "model.layers.{i}",
        attention_out_norm="post_attention_layernorm",
        ffn_out_norm="post_feedforward_layernorm",
    )


FAMILIES: Mapping[str, Family] = MappingProxyType({"Exaone4ForCausalLM": Family(read=_exaone4, rules=_rules)})
