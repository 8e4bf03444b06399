"""SmolLM 3: Llama without positions in every fourth layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from jaxpaged.models.config import ModelConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import read_decoder, read_kv_heads
from jaxpaged.models.families.windows import Windows, layer_types, num_layers, window
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rules, llama_rules


def _smollm3(config: HFConfig, name: str) -> ModelConfig:
    rotary = _rotary(config)
    model = read_decoder(
        config,
        name,
        windows=_windows(config, rotary),
        kv_heads=4 if "num_key_value_heads" not in config else read_kv_heads(config),
        default_theta=2e6,
        default_tied=True,
    )
    bias = config.flag("attention_bias", default=False)
    layers = tuple(
        layer if rotates else replace(layer, rope=None) for layer, rotates in zip(model.layers, rotary, strict=True)
    )
    return replace(model, layers=layers, qkv_bias=bias, o_bias=bias, mlp_bias=config.flag("mlp_bias", default=False))


def _rotary(config: HFConfig) -> list[bool]:
    """Whether each layer rotates positions in: `no_rope_layers` has 1 where it does."""
    layers, stated = num_layers(config), config.get("no_rope_layers")
    every = config.integer("no_rope_layer_interval", default=4)
    if stated is None:
        return [(layer + 1) % every != 0 for layer in range(layers)]
    if not isinstance(stated, list) or len(stated) != layers or any(value not in (0, 1) for value in stated):
        raise config.refusal("no_rope_layers", stated, f"it must list num_hidden_layers={layers} times 0 or 1")
    return [bool(value) for value in stated]


def _windows(config: HFConfig, rotary: list[bool]) -> Windows:
    """Only where they are asked for: by `layer_types`, else in the layers without positions."""
    size = window(config, default=None) if config.flag("use_sliding_window", default=False) else None
    config.ignore("sliding_window", "max_window_layers")
    if size is None:
        config.ignore("layer_types")  # they say of windows alone
        return (None,) * len(rotary)
    return layer_types(config, size) or tuple(None if rotates else size for rotates in rotary)


def _rules(model: ModelConfig) -> Rules:
    del model
    return llama_rules()


FAMILIES: Mapping[str, Family] = MappingProxyType({"SmolLM3ForCausalLM": Family(read=_smollm3, rules=_rules)})
