"""StableLM 2 and 3B, and StableLM 2 12B with its norm for each head."""

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
from jaxpaged.models.tensors import Rule, Rules, llama_rules


def _stablelm(config: HFConfig, name: str) -> ModelConfig:
    config.ignore("hidden_dropout")
    parallel = config.flag("use_parallel_residual", default=False)
    norm = read_layer_norm(config, "layer_norm_eps")
    qk_norm = QKNormConfig(norm=replace(norm, bias=False), over="heads")
    model = read_decoder(
        config,
        name,
        windows=same_windows(config, None),
        kv_heads=read_kv_heads(config),
        rope=partial(read_rope, partial=0.25),
        norm=norm,
    )
    return replace(
        model,
        arrangement=Arrangement.PARALLEL if parallel else Arrangement.PRE,
        one_norm=parallel,
        qkv_bias=config.flag("use_qkv_bias", default=False),
        qk_norm=qk_norm if config.flag("qk_layernorm", default=False) else None,
    )


def _rules(model: ModelConfig) -> Rules:
    del model
    norms = "model.layers.{i}.self_attn.%s_layernorm.norms.{x}.weight"
    return (
        *llama_rules(qk_norm=None),
        *(Rule(source=norms % name, path=f"layers.{{i}}.self_attn.{name}_norm.weight") for name in "qk"),
    )


FAMILIES: Mapping[str, Family] = MappingProxyType({"StableLmForCausalLM": Family(read=_stablelm, rules=_rules)})
