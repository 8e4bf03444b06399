"""Llama and Mistral: the form that most families vary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from jaxpaged.models.config import ModelConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import read_decoder, read_kv_heads
from jaxpaged.models.families.windows import same_windows, window
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rules, llama_rules


def read_llama(config: HFConfig, name: str) -> ModelConfig:
    """Llama 1 to 3, and all that call themselves so."""
    bias = config.flag("attention_bias", default=False)
    model = read_decoder(
        config,
        name,
        windows=same_windows(config, None),
        kv_heads=read_kv_heads(config, default="num_attention_heads"),
    )
    return replace(model, qkv_bias=bias, o_bias=bias, mlp_bias=config.flag("mlp_bias", default=False))


def _mistral(config: HFConfig, name: str) -> ModelConfig:
    windows = same_windows(config, window(config, default=4096))
    return read_decoder(config, name, windows=windows, kv_heads=read_kv_heads(config))


def _rules(model: ModelConfig) -> Rules:
    del model
    return llama_rules()


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "LlamaForCausalLM": Family(read=read_llama, rules=_rules),
        "MistralForCausalLM": Family(read=_mistral, rules=_rules),
    }
)
