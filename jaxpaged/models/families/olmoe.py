"""OLMoE: experts, norms over all heads of queries and of keys, and clipping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from jaxpaged.models.config import ModelConfig, MoEConfig, QKNormConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import read_decoder, read_experts, read_kv_heads
from jaxpaged.models.families.windows import same_windows
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rules, expert_rules, llama_rules


def _olmoe(config: HFConfig, name: str) -> ModelConfig:
    bias = config.flag("attention_bias", default=False)
    experts, top_k = read_experts(config, ("num_experts", "num_experts_per_tok"), defaults=(64, 8))
    model = read_decoder(
        config,
        name,
        windows=same_windows(config, None),
        kv_heads=read_kv_heads(config, default="num_attention_heads"),
        default_eps=1e-5,
    )
    if model.heads * model.head_dim != model.embed:
        raise config.unsupported("head_dim", model.head_dim, "all heads together must be as wide as hidden_size")
    moe = MoEConfig(
        experts=experts, top_k=top_k, ffn=model.ffn, renormalise=config.flag("norm_topk_prob", default=False)
    )
    return replace(
        model,
        qkv_bias=bias,
        o_bias=bias,
        qkv_clip=config.optional_number("clip_qkv"),
        qk_norm=QKNormConfig(norm=model.norm, over="width"),
        layers=tuple(replace(layer, moe=moe) for layer in model.layers),
    )


def _rules(model: ModelConfig) -> Rules:
    del model
    return (
        *llama_rules(),
        *expert_rules("mlp.gate", "mlp.experts.{x}", gate="gate_proj", up="up_proj", down="down_proj"),
    )


FAMILIES: Mapping[str, Family] = MappingProxyType({"OlmoeForCausalLM": Family(read=_olmoe, rules=_rules)})
