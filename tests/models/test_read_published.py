"""read_config: what published files of further families say beside what their classes write, and values from them."""

from __future__ import annotations

from typing import Any

import pytest

from jaxpaged.errors import ModelError, UnsupportedModelError
from jaxpaged.models.config import Arrangement
from jaxpaged.models.families import read_config

SIZES: dict[str, Any] = {"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 64, "vocab_size": 100}
STARCODER2: dict[str, Any] = SIZES | {
    "architectures": ["Starcoder2ForCausalLM"],
    "attention_softmax_in_fp32": True,
    "embedding_dropout": 0.1,
    "hidden_act": "gelu_pytorch_tanh",
    "intermediate_size": 128,
    "max_position_embeddings": 16384,
    "mlp_type": "default",
    "norm_epsilon": 1e-05,
    "norm_type": "layer_norm",
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 100000,
    "sliding_window": 4096,
    "use_bias": True,
}
FALCON: dict[str, Any] = SIZES | {
    "architectures": ["FalconForCausalLM"],
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "auto_map": {
        "AutoConfig": "configuration_falcon.FalconConfig",
        "AutoModelForCausalLM": "modeling_falcon.FalconForCausalLM",
    },
    "bias": False,
    "layer_norm_epsilon": 1e-05,
    "multi_query": True,
    "new_decoder_architecture": False,
    "parallel_attn": True,
}
OPT: dict[str, Any] = SIZES | {
    "architectures": ["OPTForCausalLM"],
    "_remove_final_layer_norm": False,
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "do_layer_norm_before": True,
    "ffn_dim": 128,
    "layerdrop": 0.0,
    "max_position_embeddings": 2048,
    "prefix": "</s>",
    "word_embed_proj_dim": 64,
}
GPT_NEOX: dict[str, Any] = SIZES | {
    "architectures": ["GPTNeoXForCausalLM"],
    "attention_probs_dropout_prob": 0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0,
    "intermediate_size": 256,
    "max_position_embeddings": 2048,
    "partial_rotary_factor": 0.25,
    "rope_theta": 10000,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "use_parallel_residual": True,
}
GPT2: dict[str, Any] = {
    "architectures": ["GPT2LMHeadModel"],
    "_num_labels": 1,
    "activation_function": "gelu_new",
    "n_ctx": 1024,
    "n_embd": 64,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 1024,
    "summary_first_dropout": 0.1,
    "vocab_size": 100,
}
SMOLLM3: dict[str, Any] = SIZES | {
    "architectures": ["SmolLM3ForCausalLM"],
    "intermediate_size": 128,
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0],
    "num_key_value_heads": 4,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
}
GEMMA: dict[str, Any] = SIZES | {
    "architectures": ["GemmaForCausalLM"],
    "head_dim": 32,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "intermediate_size": 128,
    "max_position_embeddings": 8192,
    "num_key_value_heads": 1,
}


def test_starcoder2() -> None:
    model = read_config(STARCODER2)
    assert (model.norm.kind, model.norm.eps, model.gated, model.tied) == ("layer", 1e-5, False, True)
    assert {layer.window for layer in model.layers} == {4096}
    with pytest.raises(UnsupportedModelError, match="mlp_type"):
        read_config(STARCODER2 | {"mlp_type": "gated"})


def test_falcon_names_code_that_is_built_in() -> None:
    model = read_config(FALCON)
    assert (model.kv_heads, model.one_norm, model.arrangement) == (1, True, Arrangement.PARALLEL)
    with pytest.raises(UnsupportedModelError, match="auto_map"):
        read_config(FALCON | {"auto_map": {"AutoModelForCausalLM": "modelling_other.OtherForCausalLM"}})
    with pytest.raises(UnsupportedModelError, match="alibi"):
        read_config(FALCON | {"alibi": True})


def test_opt() -> None:
    model = read_config(OPT)
    assert (model.positions, model.position_offset, model.embed_width, model.final_norm) == (2050, 2, None, True)


def test_gpt_neox_may_say_its_rope_twice() -> None:
    model = read_config(GPT_NEOX)
    assert (model.head_dim, model.ropes()[0].dims, model.arrangement) == (8, 2, Arrangement.PARALLEL)
    assert read_config({key: value for key, value in GPT_NEOX.items() if not key.startswith("rotary")}) == model
    with pytest.raises(ModelError, match="rope_theta is 20000"):
        read_config(GPT_NEOX | {"rope_theta": 20000})


def test_gpt2() -> None:
    model = read_config(GPT2)
    assert (model.ffn, model.positions, model.tied, model.max_positions) == (256, 1024, True, 1024)


def test_smollm3() -> None:
    model = read_config(SMOLLM3)
    assert [layer.rope is None for layer in model.layers] == [False, False, False, True]


def test_gemma_heeds_hidden_act() -> None:
    assert read_config(GEMMA).activation == "gelu_pytorch_tanh"
    assert read_config(GEMMA | {"hidden_act": "gelu", "hidden_activation": None}).activation == "gelu_pytorch_tanh"
    with pytest.raises(UnsupportedModelError, match="hidden_activation"):
        read_config(GEMMA | {"hidden_activation": "relu"})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"rope_scaling": {"type": "yarn", "factor": 1e308}}, "factor"),
        ({"rope_theta": 1.0, "rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_theta"),
    ],
)
def test_numbers_that_nothing_holds_are_refused(change: dict[str, Any], named: str) -> None:
    llama = SMOLLM3 | {"architectures": ["LlamaForCausalLM"]}
    for key in ("max_window_layers", "no_rope_layers", "no_rope_layer_interval", "use_sliding_window"):
        del llama[key]
    assert read_config(llama).embed == 64
    with pytest.raises(ModelError, match=named):
        read_config(llama | change)
