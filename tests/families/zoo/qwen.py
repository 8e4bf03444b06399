"""Qwen2 and Qwen3."""

from __future__ import annotations

from families.case import SIZES, Case

CASES = (
    Case(
        name="qwen2",
        architecture="Qwen2ForCausalLM",
        old_style=True,
        config=SIZES
        | {
            "hidden_size": 224,
            "num_attention_heads": 7,
            "num_key_value_heads": 1,  # G 7, D 32
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e6,
                "original_max_position_embeddings": 128,
            },
        },
        features=("q, k and v biases", "rope yarn", "tied head"),
    ),
    Case(
        name="qwen2_windows",
        architecture="Qwen2ForCausalLM",
        config=SIZES
        | {"hidden_size": 256, "use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},  # G 2, D 64
        features=("windows from a layer on",),
    ),
    Case(
        name="qwen3",
        architecture="Qwen3ForCausalLM",
        config=SIZES
        | {
            "head_dim": 128,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 8.0,
                "rope_theta": 1e6,
                "original_max_position_embeddings": 64,
                "mscale": 1.2,
                "mscale_all_dim": 0.7,
                "truncate": False,
            },
        },
        features=("q and k norms", "rope yarn with mscale"),
    ),
    Case(
        name="qwen3_old",
        architecture="Qwen3ForCausalLM",
        old_style=True,
        config=SIZES | {"head_dim": 32, "attention_bias": True, "tie_word_embeddings": True},
        features=("q and k norms", "biases", "tied head"),
    ),
)
