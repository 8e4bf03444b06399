"""gpt-oss: experts with biases and a gate of their own, sinks, windows in every other layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from jaxpaged.models.config import ModelConfig, MoEConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import read_decoder, read_experts, read_kv_heads
from jaxpaged.models.families.ropes import read_rope
from jaxpaged.models.families.windows import window, windows_by_turns
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.mxfp4 import MXFP4
from jaxpaged.models.tensors import Rule, Rules, llama_rules

_ROPE = MappingProxyType(
    {"rope_type": "yarn", "factor": 32.0, "truncate": False, "original_max_position_embeddings": 4096}
)
"""Of a config that gives none."""
_GATE = MappingProxyType({"hidden_act": "silu", "swiglu_alpha": 1.702, "swiglu_limit": 7.0})
"""What the gate is; another one is not implemented."""


def _gpt_oss(config: HFConfig, name: str) -> ModelConfig:
    for key, value in _GATE.items():
        config.require_neutral([key], value)
    _check_quantization(config)
    bias = config.flag("attention_bias", default=True)
    experts, top_k = read_experts(config, ("num_local_experts", "num_experts_per_tok"), defaults=(128, 4))
    config.require_neutral(["experts_per_token"], top_k)  # the same in the words of the first release
    model = read_decoder(
        config,
        name,
        windows=windows_by_turns(config, window(config, default=128), every=2),
        kv_heads=read_kv_heads(config),
        default_head_dim=64,
        default_theta=150_000.0,
        default_eps=1e-5,
        rope=partial(read_rope, default=_ROPE),
    )
    # of the training; the rope has its own, which is what counts
    config.get("initial_context_length")
    moe = MoEConfig(
        experts=experts,
        top_k=top_k,
        ffn=model.ffn,
        renormalise=False,
        scoring="top_k_softmax",
        router_bias=True,
        bias=True,
    )
    return replace(
        model,
        qkv_bias=bias,
        o_bias=bias,
        sinks=True,
        activation="clamped_swiglu",
        layers=tuple(replace(layer, moe=moe) for layer in model.layers),
    )


def _check_quantization(config: HFConfig) -> None:
    """Experts may be in MXFP4; the tensors themselves tell whether they are."""
    section = config.section("quantization_config")
    if section is None:
        return
    section.choice("quant_method", ["mxfp4"])
    section.require_neutral(["dequantize"], False)
    section.get("modules_to_not_convert")
    section.refuse_unread()


def _rules(model: ModelConfig) -> Rules:
    """Experts are stored together, [ins, outs], gate and up in turns; or in MXFP4, [outs, ins]."""
    del model
    layer, experts, moe = "model.layers.{i}", "model.layers.{i}.mlp.experts", "layers.{i}.moe"
    turns = "experts' gate and up in turns"
    coding = MXFP4()
    return (
        *llama_rules(),
        Rule(source=f"{layer}.self_attn.sinks", path="layers.{i}.self_attn.sinks"),
        Rule(source=f"{layer}.mlp.router.{{kind}}", path=f"{moe}.router.{{kind}}"),
        Rule(
            source=f"{experts}.gate_up_proj",
            path=f"{moe}.gate_up_proj",
            place=turns,
            transposed=True,
            coding=coding,
        ),
        Rule(source=f"{experts}.gate_up_proj_bias", path=f"{moe}.gate_up_bias", place=turns),
        Rule(source=f"{experts}.down_proj", path=f"{moe}.down_proj", transposed=True, coding=coding),
        Rule(source=f"{experts}.down_proj_bias", path=f"{moe}.down_bias"),
    )


FAMILIES: Mapping[str, Family] = MappingProxyType({"GptOssForCausalLM": Family(read=_gpt_oss, rules=_rules)})
