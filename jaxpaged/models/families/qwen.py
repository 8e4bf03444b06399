"""Qwen 2 and 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from jaxpaged.models.config import ModelConfig, QKNormConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import read_decoder, read_kv_heads
from jaxpaged.models.families.windows import late_windows
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rules, llama_rules


def _qwen2(config: HFConfig, name: str) -> ModelConfig:
    model = read_decoder(config, name, windows=late_windows(config), kv_heads=read_kv_heads(config))
    return replace(model, qkv_bias=True)


def _qwen3(config: HFConfig, name: str) -> ModelConfig:
    bias = config.flag("attention_bias", default=False)
    model = read_decoder(
        config, name, windows=late_windows(config), kv_heads=read_kv_heads(config), default_head_dim=128
    )
    return replace(model, qkv_bias=bias, o_bias=bias, qk_norm=QKNormConfig(norm=model.norm))


def _rules(model: ModelConfig) -> Rules:
    del model
    return llama_rules()


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "Qwen2ForCausalLM": Family(read=_qwen2, rules=_rules),
        "Qwen3ForCausalLM": Family(read=_qwen3, rules=_rules),
    }
)
