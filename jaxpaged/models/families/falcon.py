"""Falcon: the new decoder (40B, 180B, 11B) and the old one where it rotates positions (7B)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from jaxpaged.models.config import Arrangement, ModelConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import check_code, read_decoder, read_kv_heads, read_layer_norm
from jaxpaged.models.families.windows import same_windows
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rule, Rules, plain_rules

_OWN_CODE = (
    "FalconConfig",
    "FalconModel",
    "FalconForCausalLM",
    "FalconForQuestionAnswering",
    "FalconForSequenceClassification",
    "FalconForTokenClassification",
)
_WORDS = {
    "num_key_value_heads": "num_kv_heads",
    "intermediate_size": "ffn_hidden_size",
    "hidden_act": "activation",
}
_OLD_WORDS = {
    "hidden_size": "n_embed",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "num_key_value_heads": "n_head_kv",
}


def _falcon(config: HFConfig, name: str) -> ModelConfig:
    config.ignore("hidden_dropout")
    check_code(config, _OWN_CODE)
    config = config.renamed(_WORDS | {key: word for key, word in _OLD_WORDS.items() if word in config})
    config.require_neutral(["alibi", "apply_residual_connection_post_layernorm"], False)
    new = config.flag("new_decoder_architecture", default=False)
    # the new decoder reads neither
    parallel, one = config.flag("parallel_attn", default=True), config.flag("multi_query", default=True)
    if new and not parallel:
        raise config.unsupported("parallel_attn", False, "with new_decoder_architecture only true is implemented")
    norms = config.integer("num_ln_in_parallel_attn", default=2 if new else 1, maximum=2 if new else 1)
    heads = config.integer("num_attention_heads")
    given = read_kv_heads(config, default="num_attention_heads")
    bias = config.flag("bias", default=False)
    model = read_decoder(
        config,
        name,
        windows=same_windows(config, None),
        kv_heads=given if new else 1 if one else heads,
        default_ffn=4 * config.integer("hidden_size"),
        default_positions=2048,
        default_tied=True,
        default_activation="gelu",
        norm=read_layer_norm(config, "layer_norm_epsilon"),
    )
    return replace(
        model,
        arrangement=Arrangement.PARALLEL if parallel else Arrangement.PRE,
        one_norm=parallel and norms == 1,
        gated=False,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=bias,
    )


def _rules(model: ModelConfig) -> Rules:
    layer, two = "transformer.h.{i}", model.arrangement == Arrangement.PARALLEL and not model.one_norm
    attention_norm = "ln_attn" if two else "input_layernorm"
    return (
        Rule(source="transformer.word_embeddings.weight", path="embed_tokens.weight"),
        Rule(source="transformer.ln_f.{kind}", path="norm.{kind}"),
        Rule(source="lm_head.weight", path="lm_head.weight"),
        Rule(source=f"{layer}.{attention_norm}.{{kind}}", path="layers.{i}.attention_norm.{kind}"),
        Rule(
            source=f"{layer}.{'ln_mlp' if two else 'post_attention_layernorm'}.{{kind}}",
            path="layers.{i}.ffn_norm.{kind}",
        ),
        # per kv head its queries, then k, then v, in all its forms
        Rule(source=f"{layer}.self_attention.query_key_value.{{kind}}", path="layers.{i}.self_attn.qkv_proj.{kind}"),
        Rule(source=f"{layer}.self_attention.dense.{{kind}}", path="layers.{i}.self_attn.o_proj.{kind}"),
        *plain_rules(f"{layer}.mlp", up="dense_h_to_4h", down="dense_4h_to_h"),
    )


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"FalconForCausalLM": Family(read=_falcon, rules=_rules, prefix="transformer.")}
)
