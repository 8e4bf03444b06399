"""read_config of families beyond Llama's kin: the values of published configs, and what is refused by name."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from jaxpaged.errors import ModelError, UnsupportedModelError
from jaxpaged.models.config import Arrangement, ModelConfig, MoEConfig
from jaxpaged.models.families import read_config

GEMMA2_9B: dict[str, Any] = {
    "architectures": ["Gemma2ForCausalLM"],
    "attention_bias": False,
    "attn_logit_softcapping": 50.0,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 3584,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "gemma2",
    "num_attention_heads": 16,
    "num_hidden_layers": 42,
    "num_key_value_heads": 8,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "sliding_window_size": 4096,
    "torch_dtype": "bfloat16",
    "vocab_size": 256000,
}
GEMMA3_1B: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "torch_dtype": "bfloat16",
    "vocab_size": 262144,
}
QWEN3_30B_A3B: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN15_MOE: dict[str, Any] = {
    "architectures": ["Qwen2MoeForCausalLM"],
    "decoder_sparse_step": 1,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "max_position_embeddings": 8192,
    "max_window_layers": 21,
    "model_type": "qwen2_moe",
    "moe_intermediate_size": 1408,
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 16,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "shared_expert_intermediate_size": 5632,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GPT_OSS_20B: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "quantization_config": {"modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"], "quant_method": "mxfp4"},
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "vocab_size": 201088,
}
SHORT = [1.0 + 0.05 * i for i in range(48)]
LONG = [1.1 + 1.3 * i for i in range(48)]
PHI3_MINI_128K: dict[str, Any] = {
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "auto_map": {
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    },
    "embd_pdrop": 0.0,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "model_type": "phi3",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"long_factor": LONG, "short_factor": SHORT, "type": "longrope"},
    "rope_theta": 10000.0,
    "sliding_window": 262144,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32064,
}
PHI4_MINI: dict[str, Any] = PHI3_MINI_128K | {
    "auto_map": PHI3_MINI_128K["auto_map"] | {"AutoTokenizer": "Xenova/gpt-4o"},
    "full_attn_mod": 1,
    "interpolate_factor": 1,
    "lm_head_bias": False,
    "mlp_bias": False,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.75,
    "tie_word_embeddings": True,
    "vocab_size": 200064,
}
GRANITE_1B_A400M: dict[str, Any] = {
    "architectures": ["GraniteMoeForCausalLM"],
    "attention_bias": False,
    "attention_multiplier": 0.015625,
    "embedding_multiplier": 12.0,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 512,
    "logits_scaling": 6.0,
    "max_position_embeddings": 131072,
    "model_type": "granitemoe",
    "num_attention_heads": 16,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 49155,
}


def windows(model: ModelConfig) -> Counter[int | None]:
    return Counter(layer.window for layer in model.layers)


def test_gemma2() -> None:
    model = read_config(GEMMA2_9B)
    assert (model.arrangement, model.activation, model.tied) == (Arrangement.SANDWICH, "gelu_pytorch_tanh", True)
    assert (model.softcap, model.logit_softcap, model.scale) == (50.0, 30.0, 256**-0.5)
    assert (model.embed_scale, model.round_embed_scale) == (3584**0.5, True)
    assert [layer.window for layer in model.layers[:3]] == [4096, None, 4096]
    types = ["sliding_attention", "full_attention"] * 21
    assert read_config(GEMMA2_9B | {"layer_types": types}) == model


def test_gemma3_has_ropes_by_layer_type() -> None:
    model = read_config(GEMMA3_1B)
    assert windows(model) == {512: 22, None: 4}
    assert model.layers[5].window is None
    assert [(rope.kind, rope.theta) for rope in model.ropes()] == [("default", 1e4), ("default", 1e6)]
    assert (model.qk_norm is not None, model.softcap, model.logit_softcap) == (True, None, None)
    old = {key: value for key, value in GEMMA3_1B.items() if not key.startswith("rope_") and "pattern" not in key}
    ropes = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
    }
    types = (["sliding_attention"] * 5 + ["full_attention"]) * 4 + ["sliding_attention"] * 2
    assert read_config(old | {"layer_types": types, "rope_parameters": ropes}) == model


def test_gemma3_scales_the_rope_of_full_layers_alone() -> None:
    model = read_config(GEMMA3_1B | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}})
    assert [(rope.kind, rope.factor) for rope in model.ropes()] == [("default", 1.0), ("linear", 8.0)]


def test_gemma_1_means_the_approximation_by_gelu() -> None:
    gemma = {key: value for key, value in GEMMA2_9B.items() if "soft" not in key and "sliding" not in key}
    gemma |= {"architectures": ["GemmaForCausalLM"], "hidden_act": "gelu", "hidden_activation": None}
    del gemma["query_pre_attn_scalar"]
    model = read_config(gemma)
    assert (model.activation, model.arrangement, model.scale) == ("gelu_pytorch_tanh", Arrangement.PRE, 256**-0.5)


def test_qwen3_moe() -> None:
    model = read_config(QWEN3_30B_A3B)
    moe = MoEConfig(experts=128, top_k=8, ffn=768, renormalise=True)
    assert {layer.moe for layer in model.layers} == {moe}
    assert (model.qk_norm is not None, model.qkv_bias, windows(model)) == (True, False, {None: 48})
    new = {("num_local_experts" if key == "num_experts" else key): value for key, value in QWEN3_30B_A3B.items()}
    assert read_config(new) == model
    sparse = read_config(QWEN3_30B_A3B | {"decoder_sparse_step": 2, "mlp_only_layers": [1]})
    assert [layer.moe is not None for layer in sparse.layers[:6]] == [False, False, False, True, False, True]


def test_qwen2_moe_has_a_gated_shared_expert() -> None:
    model = read_config(QWEN15_MOE)
    moe = MoEConfig(experts=60, top_k=4, ffn=1408, renormalise=False, shared_ffn=5632, shared_gate=True)
    assert {layer.moe for layer in model.layers} == {moe}
    assert (model.qkv_bias, model.o_bias, windows(model)) == (True, False, {None: 24})
    asked = read_config(QWEN15_MOE | {"use_sliding_window": True, "max_window_layers": 4})
    assert [layer.window for layer in asked.layers[:6]] == [32768, None, 32768, None, None, None]
    assert read_config(QWEN15_MOE | {"sliding_window": 0}) == model  # as transformers 5 writes it


def test_gpt_oss() -> None:
    model = read_config(GPT_OSS_20B)
    moe = MoEConfig(
        experts=32, top_k=4, ffn=2880, renormalise=False, scoring="top_k_softmax", router_bias=True, bias=True
    )
    assert {layer.moe for layer in model.layers} == {moe}
    assert (model.sinks, model.activation, model.qkv_bias, model.o_bias) == (True, "clamped_swiglu", True, True)
    assert [layer.window for layer in model.layers[:3]] == [128, None, 128]
    (rope,) = model.ropes()
    assert (rope.kind, rope.truncate, rope.original_positions, rope.theta) == ("yarn", False, 4096, 150000)
    assert rope.scale == pytest.approx(1.3465735902799727)
    assert model.max_positions == 131072
    bare = {key: value for key, value in GPT_OSS_20B.items() if key not in ("rope_scaling", "layer_types")}
    assert read_config(bare) == model


def test_phi3_takes_the_long_factors_where_contexts_can_be_long() -> None:
    model = read_config(PHI3_MINI_128K)
    (rope,) = model.ropes()
    assert (rope.kind, rope.factors, rope.dims, rope.factor) == ("longrope", tuple(LONG), 96, 32.0)
    assert rope.scale == pytest.approx(1.1902380714238083)
    assert (model.max_positions, windows(model)) == (131072, {262144: 32})
    assert read_config(PHI3_MINI_128K, context=4097) == model


def test_phi3_takes_the_short_ones_where_they_cannot() -> None:
    model = read_config(PHI3_MINI_128K, context=4096)
    (rope,) = model.ropes()
    assert (rope.factors, model.max_positions) == (tuple(SHORT), 4096)
    assert rope.scale == read_config(PHI3_MINI_128K).ropes()[0].scale
    su = PHI3_MINI_128K | {"rope_scaling": PHI3_MINI_128K["rope_scaling"] | {"type": "su"}}
    assert read_config(su, context=1000) == model


def test_phi4_rotates_a_part_of_a_head() -> None:
    model = read_config(PHI4_MINI)
    (rope,) = model.ropes()
    assert (model.head_dim, rope.dims, len(rope.factors), model.tied) == (128, 96, 48, True)
    new = {key: value for key, value in PHI4_MINI.items() if key not in ("rope_scaling", "rope_theta")}
    inner = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}
    new["rope_parameters"] = inner | {
        "long_factor": LONG,
        "short_factor": SHORT,
        "original_max_position_embeddings": 4096,
    }
    assert read_config(new) == model


def test_granite_with_experts() -> None:
    model = read_config(GRANITE_1B_A400M)
    moe = MoEConfig(experts=32, top_k=8, ffn=512, renormalise=False, scoring="top_k_softmax")
    assert {layer.moe for layer in model.layers} == {moe}
    assert (model.scale, model.embed_scale, model.residual_scale, model.logit_scale) == (0.015625, 12.0, 0.22, 1 / 6)
    shared = GRANITE_1B_A400M | {"architectures": ["GraniteMoeSharedForCausalLM"], "shared_intermediate_size": 1024}
    assert read_config(shared).layers[0].moe == MoEConfig(
        experts=32, top_k=8, ffn=512, renormalise=False, scoring="top_k_softmax", shared_ffn=1024
    )


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        (GEMMA2_9B, "hidden_act", "relu"),
        (GEMMA2_9B, "sliding_window_size", 2048),
        (GEMMA2_9B, "use_bidirectional_attention", True),
        (GEMMA3_1B, "attn_logit_softcapping", 50.0),
        (GEMMA3_1B, "vision_config", {"hidden_size": 1152}),
        (QWEN3_30B_A3B, "shared_expert_intermediate_size", 64),
        (QWEN3_30B_A3B, "num_local_experts", 64),
        (QWEN3_30B_A3B | {"use_sliding_window": True, "sliding_window": 64}, "max_window_layers", 3),
        (GPT_OSS_20B, "swiglu_limit", 8.0),
        (GPT_OSS_20B, "experts_per_token", 8),
        (GPT_OSS_20B, "quantization_config", {"quant_method": "fp8"}),
        (PHI3_MINI_128K, "auto_map", {"AutoModelForCausalLM": "modeling_other.OtherForCausalLM"}),
        (PHI3_MINI_128K, "full_attn_mod", 2),
        (PHI3_MINI_128K, "rope_scaling", PHI3_MINI_128K["rope_scaling"] | {"short_mscale": 1.1}),
        (GRANITE_1B_A400M, "shared_intermediate_size", 64),
    ],
)
def test_what_may_change_the_maths_is_refused_by_name(base: dict[str, Any], key: str, value: object) -> None:
    with pytest.raises(UnsupportedModelError, match="short_mscale" if key == "rope_scaling" else key):
        read_config(base | {key: value})


@pytest.mark.parametrize(
    ("base", "change", "named"),
    [
        (GEMMA3_1B, {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "the config also says 1000000.0"),
        (QWEN3_30B_A3B, {"mlp_only_layers": ["all"]}, "it must list numbers of layers"),
        (PHI4_MINI, {"partial_rotary_factor": 0.01}, "an even number of a head's 128 dimensions"),
        (PHI4_MINI, {"partial_rotary_factor": 0.5}, "short_factor"),
        (PHI3_MINI_128K, {"rope_scaling": {"type": "longrope", "short_factor": SHORT}}, "long_factor is None"),
        (GPT_OSS_20B, {"num_local_experts": 3}, "it must be at most num_local_experts=3"),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(base: dict[str, Any], change: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError) as refusal:
        read_config(base | change)
    assert named in str(refusal.value)
