"""Granite: Llama with factors on embeddings, residuals, scores and logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from jaxpaged.models.config import ModelConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.llama import read_llama
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rules, llama_rules


def read_factors(config: HFConfig, model: ModelConfig) -> ModelConfig:
    """The model with Granite's four factors; logits are divided by theirs."""
    return replace(
        model,
        embed_scale=config.number("embedding_multiplier", default=1.0),
        residual_scale=config.number("residual_multiplier", default=1.0),
        scale=config.number("attention_multiplier", default=1.0),
        logit_scale=1.0 / config.number("logits_scaling", default=1.0),
    )


def _granite(config: HFConfig, name: str) -> ModelConfig:
    return read_factors(config, read_llama(config, name))


def _rules(model: ModelConfig) -> Rules:
    del model
    return llama_rules()


FAMILIES: Mapping[str, Family] = MappingProxyType({"GraniteForCausalLM": Family(read=_granite, rules=_rules)})
