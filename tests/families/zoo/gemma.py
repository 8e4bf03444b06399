"""Gemma, Gemma 2 and Gemma 3."""

from __future__ import annotations

from families.case import ABSENT, SIZES, Case

_SIZES = SIZES | {"head_dim": 32}

CASES = (
    Case(
        name="gemma",
        architecture="GemmaForCausalLM",
        old_style=True,
        config=_SIZES | {"num_key_value_heads": 1, "hidden_act": "gelu_pytorch_tanh"},  # G 4
        keys={"hidden_act": "gelu", "hidden_activation": None},
        features=("norms by 1 + weight", "scaled embedding", "tied head"),
    ),
    Case(
        name="gemma_biased",
        architecture="GemmaForCausalLM",
        config=_SIZES | {"attention_bias": True, "tie_word_embeddings": False, "hidden_act": "silu"},
        features=("biases",),
    ),
    Case(
        name="gemma2",
        architecture="Gemma2ForCausalLM",
        config=_SIZES
        | {
            "sliding_window": 24,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 4.0,
            "layer_types": ["full_attention", "sliding_attention"],
        },
        features=("norms around both parts", "softcaps", "windows by turns", "tied head"),
    ),
    Case(
        name="gemma2_old",
        architecture="Gemma2ForCausalLM",
        old_style=True,
        config=_SIZES
        | {
            "num_hidden_layers": 3,
            "sliding_window": 70,
            "query_pre_attn_scalar": 48,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": None,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "rms_norm_eps": 1e-5,
        },
        keys={"hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid", "sliding_window_size": 70},
        features=("softcap of the scores", "biases"),
    ),
    Case(
        name="gemma3",
        architecture="Gemma3ForCausalLM",
        config=_SIZES
        | {
            "num_hidden_layers": 3,
            "sliding_window": 24,
            "query_pre_attn_scalar": 24,
            "final_logit_softcapping": 6.0,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
        },
        features=("ropes by layer type", "q and k norms", "softcap of the logits"),
    ),
    Case(
        name="gemma3_old",
        architecture="Gemma3ForCausalLM",
        old_style=True,
        config=_SIZES
        | {
            "num_hidden_layers": 4,
            "num_key_value_heads": 1,
            "sliding_window": 40,
            "tie_word_embeddings": False,
            "attention_bias": True,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 2e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 3e3},
            },
        },
        keys={"sliding_window_pattern": 3, "cache_implementation": "hybrid"},
        features=("windows in all layers but every third", "biases"),
    ),
    Case(
        name="gemma3_defaults",
        architecture="Gemma3ForCausalLM",
        old_style=True,
        config=_SIZES | {"num_hidden_layers": 6, "sliding_window": 100},
        keys={"rope_theta": ABSENT, "rope_local_base_freq": ABSENT, "rope_scaling": ABSENT},
        features=("windows in all layers but every sixth",),
    ),
)
