"""Mixtral: Mistral with experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from jaxpaged.models.config import ModelConfig, MoEConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import read_decoder, read_experts, read_kv_heads
from jaxpaged.models.families.windows import same_windows, window
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rules, expert_rules, llama_rules


def _mixtral(config: HFConfig, name: str) -> ModelConfig:
    experts, top_k = read_experts(config, ("num_local_experts", "num_experts_per_tok"), defaults=(8, 2))
    model = read_decoder(
        config,
        name,
        windows=same_windows(config, window(config, default=None)),
        kv_heads=read_kv_heads(config),
        default_theta=1e6,
        default_eps=1e-5,
    )
    moe = MoEConfig(experts=experts, top_k=top_k, ffn=model.ffn, renormalise=True)
    return replace(model, layers=tuple(replace(layer, moe=moe) for layer in model.layers))


def _rules(model: ModelConfig) -> Rules:
    del model
    block = "block_sparse_moe"
    return llama_rules() + expert_rules(f"{block}.gate", f"{block}.experts.{{x}}", gate="w1", up="w3", down="w2")


FAMILIES: Mapping[str, Family] = MappingProxyType({"MixtralForCausalLM": Family(read=_mixtral, rules=_rules)})
