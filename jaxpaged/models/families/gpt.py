"""GPT-2 and GPT-NeoX (Pythia)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from jaxpaged.models.config import Arrangement, ModelConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import read_decoder, read_layer_norm
from jaxpaged.models.families.ropes import read_rope
from jaxpaged.models.families.windows import same_windows
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rule, Rules, plain_rules

_GPT2_WORDS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "intermediate_size": "n_inner",
    "hidden_act": "activation_function",
}
_SUMMARY = ("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout")


def _gpt2(config: HFConfig, name: str) -> ModelConfig:
    config = config.renamed(_GPT2_WORDS)
    config.ignore(*_SUMMARY, "n_ctx", "reorder_and_upcast_attn")  # that one is about float16
    config.require_neutral(["scale_attn_weights"], True)
    config.require_neutral(["scale_attn_by_inverse_layer_idx", "add_cross_attention"], False)
    model = read_decoder(
        config,
        name,
        windows=same_windows(config, None),
        kv_heads=config.integer("num_attention_heads"),
        default_ffn=4 * config.integer("hidden_size"),
        default_tied=True,
        default_activation="gelu_new",
        norm=read_layer_norm(config, "layer_norm_epsilon"),
        rope=None,
    )
    return replace(model, gated=False, qkv_bias=True, o_bias=True, mlp_bias=True, positions=model.max_positions)


def _gpt2_rules(model: ModelConfig) -> Rules:
    del model
    layer, products = (
        "transformer.h.{i}",
        (
            ("attn.c_attn", "self_attn.qkv_proj", "q, k, v"),
            ("attn.c_proj", "self_attn.o_proj", "whole"),
            ("mlp.c_fc", "mlp.up_proj", "whole"),
            ("mlp.c_proj", "mlp.down_proj", "whole"),
        ),
    )
    return (
        Rule(source="transformer.wte.weight", path="embed_tokens.weight"),
        Rule(source="transformer.wpe.weight", path="embed_positions"),
        Rule(source="transformer.ln_f.{kind}", path="norm.{kind}"),
        Rule(source="lm_head.weight", path="lm_head.weight"),
        Rule(source=f"{layer}.ln_1.{{kind}}", path="layers.{i}.attention_norm.{kind}"),
        Rule(source=f"{layer}.ln_2.{{kind}}", path="layers.{i}.ffn_norm.{kind}"),
        *(
            Rule(
                source=f"{layer}.{source}.{kind}",
                path=f"layers.{{i}}.{path}.{kind}",
                place=place,
                transposed=kind == "weight",
            )
            for source, path, place in products
            for kind in ("weight", "bias")
        ),
    )


_NEOX_WORDS = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
"""Some files have both."""


def _gpt_neox(config: HFConfig, name: str) -> ModelConfig:
    config.ignore("classifier_dropout", "hidden_dropout", "is_decoder")
    config.ignore("attention_probs_dropout_prob", "hidden_dropout_prob")
    for key, word in _NEOX_WORDS.items():
        theirs, common = config.optional_number(word), config.optional_number(key)
        if None not in (theirs, common) and theirs != common:
            raise config.refusal(key, common, f"{word} is {theirs:g}", "Keep one")
    config = config.renamed({key: word for key, word in _NEOX_WORDS.items() if word in config})
    parallel = config.flag("use_parallel_residual", default=True)
    bias = config.flag("attention_bias", default=True)
    model = read_decoder(
        config,
        name,
        windows=same_windows(config, None),
        kv_heads=config.integer("num_attention_heads"),
        rope=partial(read_rope, partial=0.25),
        default_activation="gelu",
        norm=read_layer_norm(config, "layer_norm_eps"),
    )
    return replace(
        model,
        arrangement=Arrangement.PARALLEL if parallel else Arrangement.PRE,
        gated=False,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=True,
    )


def _gpt_neox_rules(model: ModelConfig) -> Rules:
    del model
    layer = "gpt_neox.layers.{i}"
    return (
        Rule(source="gpt_neox.embed_in.weight", path="embed_tokens.weight"),
        Rule(source="gpt_neox.final_layer_norm.{kind}", path="norm.{kind}"),
        Rule(source="embed_out.weight", path="lm_head.weight"),
        Rule(source=f"{layer}.input_layernorm.{{kind}}", path="layers.{i}.attention_norm.{kind}"),
        Rule(source=f"{layer}.post_attention_layernorm.{{kind}}", path="layers.{i}.ffn_norm.{kind}"),
        Rule(source=f"{layer}.attention.query_key_value.{{kind}}", path="layers.{i}.self_attn.qkv_proj.{kind}"),
        Rule(source=f"{layer}.attention.dense.{{kind}}", path="layers.{i}.self_attn.o_proj.{kind}"),
        *plain_rules(f"{layer}.mlp", up="dense_h_to_4h", down="dense_4h_to_h"),
    )


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "GPT2LMHeadModel": Family(
            read=_gpt2,
            rules=_gpt2_rules,
            prefix="transformer.",
            ignorable=(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",),
        ),
        "GPTNeoXForCausalLM": Family(
            read=_gpt_neox,
            rules=_gpt_neox_rules,
            prefix="gpt_neox.",
            ignorable=(r"(gpt_neox\.)?layers\.\d+\.attention\.((masked_)?bias|rotary_emb\.inv_freq)",),
        ),
    }
)
