"""GLM 4: norms before and behind, and a rope that pairs neighbours in half of every head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from jaxpaged.models.config import Arrangement, ModelConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import read_decoder, read_kv_heads
from jaxpaged.models.families.ropes import read_rope
from jaxpaged.models.families.windows import same_windows
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rule, Rules, llama_rules, norm_rules, uninterleaved


def _glm4(config: HFConfig, name: str) -> ModelConfig:
    model = read_decoder(
        config,
        name,
        windows=same_windows(config, None),
        kv_heads=2 if "num_key_value_heads" not in config else read_kv_heads(config),
        default_head_dim=128,
        default_eps=1.5625e-7,
        rope=partial(read_rope, partial=0.5),
    )
    bias = config.flag("attention_bias", default=True)
    return replace(model, arrangement=Arrangement.SANDWICH, qkv_bias=bias)


def _rules(model: ModelConfig) -> Rules:
    layer = "model.layers.{i}"
    return (
        *uninterleaved(llama_rules(attention_norm=None, ffn_norm=None, mlp=False), model),
        *norm_rules(
            layer,
            attention_norm="input_layernorm",
            attention_out_norm="post_self_attn_layernorm",
            ffn_norm="post_attention_layernorm",
            ffn_out_norm="post_mlp_layernorm",
        ),
        Rule(source=f"{layer}.mlp.gate_up_proj.{{kind}}", path="layers.{i}.mlp.gate_up_proj.{kind}"),
        Rule(source=f"{layer}.mlp.down_proj.{{kind}}", path="layers.{i}.mlp.down_proj.{kind}"),
    )


FAMILIES: Mapping[str, Family] = MappingProxyType({"Glm4ForCausalLM": Family(read=_glm4, rules=_rules)})
