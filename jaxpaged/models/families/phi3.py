"""Phi-3, 3.5 and 4: Llama with fused products, and LongRoPE."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from jaxpaged.models.config import ModelConfig, RopeConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import check_code, read_decoder, read_kv_heads
from jaxpaged.models.families.ropes import read_rope
from jaxpaged.models.families.windows import same_windows, window
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rule, Rules, llama_rules

_KINDS = MappingProxyType({"su": "longrope", "yarn": "longrope"})
"""What earlier files call it."""
_OWN_CODE = ("Phi3Config", "Phi3ForCausalLM")
_OTHERS = MappingProxyType({"interpolate_factor": 1, "full_attn_mod": 1})
"""What the code beside some of these files can vary and transformers cannot."""


def _phi3(config: HFConfig, name: str) -> ModelConfig:
    for key, value in _OTHERS.items():
        config.require_neutral([key], value)
    check_code(config, _OWN_CODE)
    return read_decoder(
        config,
        name,
        windows=same_windows(config, window(config, default=None)),
        kv_heads=read_kv_heads(config, default="num_attention_heads"),
        default_eps=1e-5,
        rope=_rope,
    )


def _rope(config: HFConfig, *, dims: int, max_positions: int, default_theta: float) -> RopeConfig:
    """The context of the training stands beside the rope, and counts even where it is missing."""
    return read_rope(
        config,
        dims=dims,
        max_positions=max_positions,
        default_theta=default_theta,
        partial=1.0,
        aliases=_KINDS,
        default_original=4096,
    )


def _rules(model: ModelConfig) -> Rules:
    del model
    layer, path = "model.layers.{i}", "layers.{i}"
    own = (
        Rule(source=f"{layer}.self_attn.qkv_proj.weight", path=f"{path}.self_attn.qkv_proj.weight", place="q, k, v"),
        Rule(source=f"{layer}.mlp.gate_up_proj.weight", path=f"{path}.mlp.gate_up_proj.weight"),
    )
    fused = {rule.path for rule in own}
    return own + tuple(rule for rule in llama_rules() if rule.path.replace("{kind}", "weight") not in fused)


FAMILIES: Mapping[str, Family] = MappingProxyType({"Phi3ForCausalLM": Family(read=_phi3, rules=_rules)})
