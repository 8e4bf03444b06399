"""Granite with experts, alone or beside a network for all tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from jaxpaged.models.config import ModelConfig, MoEConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.granite import read_factors
from jaxpaged.models.families.reading import read_decoder, read_experts, read_kv_heads
from jaxpaged.models.families.windows import same_windows
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rule, Rules, llama_rules


def _granitemoe(config: HFConfig, name: str) -> ModelConfig:
    experts, top_k = read_experts(config, ("num_local_experts", "num_experts_per_tok"), defaults=(8, 2))
    bias = config.flag("attention_bias", default=False)
    model = read_decoder(
        config,
        name,
        windows=same_windows(config, None),
        kv_heads=read_kv_heads(config, default="num_attention_heads"),
    )
    moe = MoEConfig(experts=experts, top_k=top_k, ffn=model.ffn, renormalise=False, scoring="top_k_softmax")
    layers = tuple(replace(layer, moe=moe) for layer in model.layers)
    return read_factors(config, replace(model, qkv_bias=bias, o_bias=bias, layers=layers))


def _granitemoeshared(config: HFConfig, name: str) -> ModelConfig:
    model, shared = _granitemoe(config, name), config.integer("shared_intermediate_size", default=0, minimum=0)
    layers = tuple(
        replace(layer, moe=None if layer.moe is None else replace(layer.moe, shared_ffn=shared))
        for layer in model.layers
    )
    return replace(model, layers=layers)


def _rules(model: ModelConfig) -> Rules:
    """All experts are one tensor, and so are their gate and up."""
    del model
    block, shared, path = "model.layers.{i}.block_sparse_moe", "model.layers.{i}.shared_mlp", "layers.{i}.moe"
    return (
        *llama_rules(),
        Rule(source=f"{block}.router.layer.weight", path=f"{path}.router.weight"),
        Rule(source=f"{block}.input_linear.weight", path=f"{path}.gate_up_proj"),
        Rule(source=f"{block}.output_linear.weight", path=f"{path}.down_proj"),
        Rule(source=f"{shared}.input_linear.weight", path=f"{path}.shared.gate_up_proj.weight"),
        Rule(source=f"{shared}.output_linear.weight", path=f"{path}.shared.down_proj.weight"),
    )


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "GraniteMoeForCausalLM": Family(read=_granitemoe, rules=_rules),
        "GraniteMoeSharedForCausalLM": Family(read=_granitemoeshared, rules=_rules),
    }
)
