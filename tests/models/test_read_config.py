"""read_config: published configs give the right values, and what is not understood is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from jaxpaged.errors import ModelError, UnsupportedModelError
from jaxpaged.models.config import AttentionKind, KVGroup, MoEConfig
from jaxpaged.models.families import FAMILIES, read_config

LLAMA_31_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.3",
    "use_cache": True,
    "vocab_size": 128256,
}
QWEN25_7B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 152064,
}
MISTRAL_7B: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}
MIXTRAL_8X7B = MISTRAL_7B | {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "sliding_window": None,
    "rope_theta": 1000000.0,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.02,
}
QWEN3_8B: dict[str, Any] = QWEN25_7B | {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rope_scaling": None,
    "sliding_window": None,
    "vocab_size": 151936,
}


def test_llama_in_the_style_of_transformers_4() -> None:
    model = read_config(LLAMA_31_8B)
    assert (model.vocab, model.embed, model.heads, model.kv_heads, model.head_dim) == (128256, 4096, 32, 8, 128)
    assert (model.ffn, len(model.layers), model.max_positions, model.norm.eps) == (14336, 32, 131072, 1e-5)
    assert (model.dtype, model.activation, model.tied, model.qk_norm) == ("bfloat16", "silu", False, None)
    assert (model.qkv_bias, model.o_bias, model.mlp_bias) == (False, False, False)
    assert model.scale == pytest.approx(0.08838834764831845)
    rope = model.ropes()[0]
    assert (rope.kind, rope.theta, rope.dims, rope.factor, rope.original_positions) == ("llama3", 5e5, 128, 8.0, 8192)


def test_the_two_styles_of_transformers_say_the_same() -> None:
    new = {key: value for key, value in LLAMA_31_8B.items() if key not in ("rope_theta", "rope_scaling", "torch_dtype")}
    new["rope_parameters"] = {"rope_theta": 500000.0, **LLAMA_31_8B["rope_scaling"]}
    new["dtype"] = "bfloat16"
    assert read_config(new) == read_config(LLAMA_31_8B)


def test_llama_2_without_kv_heads_has_one_per_head() -> None:
    old = {key: value for key, value in LLAMA_31_8B.items() if key not in ("num_key_value_heads", "rope_scaling")}
    assert read_config(old).kv_heads == 32


def test_qwen2_has_qkv_bias_only_and_no_window_unless_asked() -> None:
    model = read_config(QWEN25_7B)
    assert (model.qkv_bias, model.o_bias, model.mlp_bias, model.qk_norm) == (True, False, False, None)
    assert {layer.window for layer in model.layers} == {None}


def test_qwen2_windows_start_at_max_window_layers() -> None:
    asked = QWEN25_7B | {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 26}
    model = read_config(asked)
    assert [layer.window for layer in model.layers] == [None] * 26 + [4096] * 2
    types = ["full_attention"] * 26 + ["sliding_attention"] * 2
    assert read_config(asked | {"layer_types": types}) == model
    assert model.kv_groups() == (
        KVGroup(layers=tuple(range(13)), window=None),
        KVGroup(layers=tuple(range(13, 26)), window=None),
        KVGroup(layers=(26, 27), window=4096),
    )
    kinds = ((0, None), (1, None), (2, 4096))
    assert model.attention_kinds() == tuple(AttentionKind(group=group, window=window) for group, window in kinds)


def test_qwen2_with_yarn_reaches_further() -> None:
    scaling = {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}
    model = read_config(QWEN25_7B | {"rope_scaling": scaling})
    assert model.max_positions == 131072
    assert model.ropes()[0].scale == pytest.approx(1.13862943611)


def test_qwen3_normalises_q_and_k() -> None:
    model = read_config(QWEN3_8B)
    assert (model.qk_norm is not None, model.qkv_bias, model.head_dim) == (True, False, 128)
    without = {key: value for key, value in QWEN3_8B.items() if key != "head_dim"}
    assert read_config(without | {"hidden_size": 2048}).head_dim == 128


def test_mistral_has_one_window_everywhere() -> None:
    model = read_config(MISTRAL_7B)
    assert {layer.window for layer in model.layers} == {4096}
    assert model.kv_groups() == (KVGroup(layers=tuple(range(32)), window=4096),)
    assert {layer.window for layer in read_config(MISTRAL_7B | {"sliding_window": None}).layers} == {None}
    absent = {key: value for key, value in MISTRAL_7B.items() if key != "sliding_window"}
    assert {layer.window for layer in read_config(absent).layers} == {4096}  # transformers' default


def test_mixtral_has_experts() -> None:
    model = read_config(MIXTRAL_8X7B)
    assert model.layers[7].moe == MoEConfig(experts=8, top_k=2, ffn=14336, renormalise=True)
    without = {key: value for key, value in MIXTRAL_8X7B.items() if key != "rope_theta"}
    assert read_config(without).ropes()[0].theta == 1e6


def test_a_model_config_is_hashable() -> None:
    assert hash(read_config(MIXTRAL_8X7B)) == hash(read_config(MIXTRAL_8X7B))


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedModelError, match="MambaForCausalLM") as refusal:
        read_config(LLAMA_31_8B | {"architectures": ["MambaForCausalLM"]})
    assert all(name in str(refusal.value) for name in FAMILIES)
    with pytest.raises(UnsupportedModelError, match="architectures is None"):
        read_config({})


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        (LLAMA_31_8B, "quantization_config", {"quant_method": "fp8"}),
        (LLAMA_31_8B, "sliding_window", 4096),
        (LLAMA_31_8B, "attn_logit_softcapping", 50.0),
        (LLAMA_31_8B, "residual_multiplier", 0.2),
        (LLAMA_31_8B, "partial_rotary_factor", 0.5),
        (LLAMA_31_8B, "hidden_act", "relu2"),
        (LLAMA_31_8B, "torch_dtype", "float8_e4m3fn"),
        (LLAMA_31_8B, "auto_map", {"AutoModel": "modeling.Mine"}),
        (QWEN25_7B, "dual_chunk_attention_config", {"chunk_size": 1}),
        (QWEN25_7B, "attention_bias", True),
        (MISTRAL_7B, "layer_types", ["full_attention"] * 32),
        (MIXTRAL_8X7B, "shared_expert_intermediate_size", 64),
        (QWEN3_8B, "layer_types", ["chunked_attention"] * 36),
    ],
)
def test_what_may_change_the_maths_is_refused_by_name(base: dict[str, Any], key: str, value: object) -> None:
    with pytest.raises(UnsupportedModelError, match=key):
        read_config(base | {key: value})


@pytest.mark.parametrize(("key", "value"), [("attn_logit_softcapping", None), ("use_mrope", False), ("extras", {})])
def test_unknown_keys_that_say_nothing_pass(key: str, value: object) -> None:
    assert read_config(LLAMA_31_8B | {key: value}) == read_config(LLAMA_31_8B)


@pytest.mark.parametrize(
    ("scaling", "named"),
    [
        ({"type": "dynamic", "factor": 2.0}, "rope_scaling.type is 'dynamic'"),
        ({"rope_type": "proportional"}, "rope_scaling.rope_type is 'proportional'"),
        ({"rope_type": "default", "mrope_section": [16, 24, 24]}, "rope_scaling.mrope_section"),
        ({"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_rope_that_is_not_implemented_is_refused_by_name(scaling: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModelError) as refusal:
        read_config(LLAMA_31_8B | {"rope_scaling": scaling})
    assert named in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads is 0: it must be a whole number of at least 1"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers is 2.5"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000: it must be at most 1024"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"vocab_size": None}, "vocab_size is None"),
        ({"hidden_size": "4096"}, "hidden_size is '4096'"),
        ({"num_key_value_heads": 5}, "num_key_value_heads is 5: it must divide num_attention_heads=32"),
        ({"num_attention_heads": 24, "num_key_value_heads": 8}, "it must divide hidden_size=4096"),
        ({"head_dim": 33}, "head_dim is 33: it must be even"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0: it must be a number above 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rope_theta": 0}, "rope_theta is 0"),
        ({"attention_bias": "no"}, "attention_bias is 'no': it must be true or false"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear': it must be an object"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is None: it is missing"),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn"}}, "the config also says 'linear'"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_parameters says otherwise"),
        ({"rope_scaling": None, "rope_parameters": {"rope_theta": 1e4}}, "the config also says 500000.0"),
        ({"layer_types": ["full_attention"]}, "it must list num_hidden_layers=32 types"),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError) as refusal:
        read_config(LLAMA_31_8B | change)
    assert named in str(refusal.value)


def test_more_choices_than_experts_are_refused() -> None:
    with pytest.raises(ModelError, match="at most num_local_experts=8"):
        read_config(MIXTRAL_8X7B | {"num_experts_per_tok": 9})


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"])
def test_a_missing_size_is_named(key: str) -> None:
    config = {name: value for name, value in LLAMA_31_8B.items() if name != key}
    with pytest.raises(ModelError, match=f"{key} is None: it is missing"):
        read_config(config)
