"""Phi 1 and 2: attention and network side by side behind one norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from jaxpaged.models.config import Arrangement, ModelConfig, QKNormConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import read_decoder, read_kv_heads, read_layer_norm
from jaxpaged.models.families.ropes import read_rope
from jaxpaged.models.families.windows import same_windows
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rule, Rules, llama_rules, plain_rules


def _phi(config: HFConfig, name: str) -> ModelConfig:
    norm = read_layer_norm(config, "layer_norm_eps")
    model = read_decoder(
        config,
        name,
        windows=same_windows(config, None),
        kv_heads=read_kv_heads(config, default="num_attention_heads"),
        rope=partial(read_rope, partial=0.5),
        default_activation="gelu_new",
        norm=norm,
    )
    return replace(
        model,
        arrangement=Arrangement.PARALLEL,
        one_norm=True,
        gated=False,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        head_bias=True,
        qk_norm=QKNormConfig(norm=norm) if config.flag("qk_layernorm", default=False) else None,
    )


def _rules(model: ModelConfig) -> Rules:
    del model
    return (
        *llama_rules(final_norm="final_layernorm", o_proj="dense", qk_norm="{name}_layernorm", mlp=False),
        Rule(source="lm_head.bias", path="head_bias"),
        *plain_rules("model.layers.{i}.mlp", up="fc1", down="fc2"),
    )


FAMILIES: Mapping[str, Family] = MappingProxyType({"PhiForCausalLM": Family(read=_phi, rules=_rules)})
