"""Qwen 2 and 3 with experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from jaxpaged.models.config import ModelConfig, MoEConfig, QKNormConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import read_decoder, read_experts, read_kv_heads
from jaxpaged.models.families.windows import Windows, layer_types, num_layers, same_windows, window
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rule, Rules, expert_rules, gated_rules, llama_rules


def _qwen2_moe(config: HFConfig, name: str) -> ModelConfig:
    model = read_decoder(config, name, windows=_turns(config), kv_heads=read_kv_heads(config))
    moe = _read_moe(config, defaults=(60, 4), default_ffn=1408)
    moe = replace(moe, shared_ffn=config.integer("shared_expert_intermediate_size", default=5632), shared_gate=True)
    return _with_experts(config, replace(model, qkv_bias=config.flag("qkv_bias", default=True)), moe)


def _qwen3_moe(config: HFConfig, name: str) -> ModelConfig:
    bias = config.flag("attention_bias", default=False)
    model = read_decoder(config, name, windows=same_windows(config, _used(config)), kv_heads=read_kv_heads(config))
    moe = _read_moe(config, defaults=(128, 8), default_ffn=768)
    model = replace(model, qkv_bias=bias, o_bias=bias, qk_norm=QKNormConfig(norm=model.norm))
    return _with_experts(config, model, moe)


def _read_moe(config: HFConfig, *, defaults: tuple[int, int], default_ffn: int) -> MoEConfig:
    """Transformers 5 writes num_local_experts for num_experts in some of these families."""
    key = "num_experts" if "num_experts" in config else "num_local_experts"
    config.require_neutral(["num_experts", "num_local_experts"], config.get(key))
    experts, top_k = read_experts(config, (key, "num_experts_per_tok"), defaults=defaults)
    return MoEConfig(
        experts=experts,
        top_k=top_k,
        ffn=config.integer("moe_intermediate_size", default=default_ffn),
        renormalise=config.flag("norm_topk_prob", default=False),
    )


def _with_experts(config: HFConfig, model: ModelConfig, moe: MoEConfig) -> ModelConfig:
    """Experts in every `decoder_sparse_step`-th layer, but none of `mlp_only_layers`."""
    step, dense = config.integer("decoder_sparse_step", default=1), config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(layer) is int for layer in dense):
        raise config.refusal("mlp_only_layers", dense, "it must list numbers of layers")
    layers = tuple(
        replace(layer, moe=moe) if i not in dense and (i + 1) % step == 0 else layer
        for i, layer in enumerate(model.layers)
    )
    return replace(model, layers=layers)


def _used(config: HFConfig) -> int | None:
    """The window that is used: none where `use_sliding_window` does not say so, whatever its size."""
    if config.flag("use_sliding_window", default=False):
        return window(config, default=4096)
    for key in ("sliding_window", "max_window_layers"):
        config.get(key)
    return None


def _turns(config: HFConfig) -> Windows:
    """Windows by `layer_types`; in older configs every other layer has one, up to `max_window_layers`."""
    size = _used(config)
    last = config.integer("max_window_layers", default=28, minimum=0)
    by_rule = tuple(size if layer % 2 == 0 and layer < last else None for layer in range(num_layers(config)))
    return layer_types(config, size) or by_rule


def _rules(model: ModelConfig) -> Rules:
    del model
    layer, block = "model.layers.{i}.mlp", "layers.{i}.moe"
    return (
        *llama_rules(),
        *expert_rules("mlp.gate", "mlp.experts.{x}", gate="gate_proj", up="up_proj", down="down_proj"),
        *gated_rules(f"{layer}.shared_expert", f"{block}.shared"),
        Rule(source=f"{layer}.shared_expert_gate.{{kind}}", path=f"{block}.shared_gate.{{kind}}"),
    )


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "Qwen2MoeForCausalLM": Family(read=_qwen2_moe, rules=_rules),
        "Qwen3MoeForCausalLM": Family(read=_qwen3_moe, rules=_rules),
    }
)
