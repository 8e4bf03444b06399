"""gpt-oss."""

from __future__ import annotations

from families.case import SIZES, Case

_SIZES = SIZES | {"head_dim": 32, "num_local_experts": 8, "num_experts_per_tok": 3, "intermediate_size": 64}

CASES = (
    Case(
        name="gpt_oss",
        architecture="GptOssForCausalLM",
        config=_SIZES
        | {
            "sliding_window": 24,
            "layer_types": ["full_attention", "sliding_attention"],
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 8.0,
                "rope_theta": 150_000.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 64,
            },
        },
        features=("sinks", "experts with biases and a clamped gate", "windows by turns", "rope yarn", "biases"),
    ),
    Case(
        name="gpt_oss_old",
        architecture="GptOssForCausalLM",
        old_style=True,
        config=_SIZES
        | {
            "head_dim": 64,
            "intermediate_size": 128,
            "num_experts_per_tok": 4,
            "sliding_window": 70,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 32.0,
                "rope_theta": 10_000.0,
                "truncate": False,
                "original_max_position_embeddings": 32,
            },
        },
        keys={"experts_per_token": 4, "initial_context_length": 32},
        features=("sinks", "experts", "tied head"),
    ),
)
