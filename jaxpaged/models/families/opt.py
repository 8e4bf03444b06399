"""OPT: learned positions, and in its 350M size norms behind the sums and narrower token vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from jaxpaged.models.config import Arrangement, ModelConfig, NormConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import read_decoder
from jaxpaged.models.families.windows import same_windows
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rule, Rules, plain_rules

_OFFSET = 2  # rows of the table of positions that belong to no token


def _opt(config: HFConfig, name: str) -> ModelConfig:
    config = config.renamed({"intermediate_size": "ffn_dim", "hidden_act": "activation_function"})
    config.ignore("dropout", "activation_dropout", "layerdrop", "init_std")
    config.require_neutral(["layer_norm_elementwise_affine"], True)
    before = config.flag("do_layer_norm_before", default=True)
    removed = config.flag("_remove_final_layer_norm", default=False)
    bias = config.flag("enable_bias", default=True)
    width = config.optional_integer("word_embed_proj_dim")
    model = read_decoder(
        config,
        name,
        windows=same_windows(config, None),
        kv_heads=config.integer("num_attention_heads"),
        default_tied=True,
        default_activation="relu",
        norm=NormConfig(kind="layer", eps=1e-5, bias=True),
        rope=None,
    )
    return replace(
        model,
        arrangement=Arrangement.PRE if before else Arrangement.AFTER,
        final_norm=before and not removed,
        gated=False,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=bias,
        embed_width=None if width == model.embed else width,
        positions=model.max_positions + _OFFSET,
        position_offset=_OFFSET,
    )


def _rules(model: ModelConfig) -> Rules:
    base, layer = "model.decoder", "model.decoder.layers.{i}"
    out = "_out" if model.arrangement == Arrangement.AFTER else ""
    return (
        Rule(source=f"{base}.embed_tokens.weight", path="embed_tokens.weight"),
        Rule(source=f"{base}.embed_positions.weight", path="embed_positions"),
        Rule(source=f"{base}.project_in.weight", path="project_in.weight"),
        Rule(source=f"{base}.project_out.weight", path="project_out.weight"),
        Rule(source=f"{base}.final_layer_norm.{{kind}}", path="norm.{kind}"),
        Rule(source="lm_head.weight", path="lm_head.weight"),
        Rule(source=f"{layer}.self_attn_layer_norm.{{kind}}", path=f"layers.{{i}}.attention{out}_norm.{{kind}}"),
        Rule(source=f"{layer}.final_layer_norm.{{kind}}", path=f"layers.{{i}}.ffn{out}_norm.{{kind}}"),
        *(
            Rule(
                source=f"{layer}.self_attn.{place}_proj.{{kind}}",
                path="layers.{i}.self_attn.qkv_proj.{kind}",
                place=place,
            )
            for place in "qkv"
        ),
        Rule(source=f"{layer}.self_attn.out_proj.{{kind}}", path="layers.{i}.self_attn.o_proj.{kind}"),
        *plain_rules(layer, up="fc1", down="fc2"),
    )


FAMILIES: Mapping[str, Family] = MappingProxyType({"OPTForCausalLM": Family(read=_opt, rules=_rules)})
