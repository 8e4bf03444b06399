"""StarCoder2."""

from __future__ import annotations

from families.case import SIZES, Case

CASES = (
    Case(
        name="starcoder2",
        architecture="Starcoder2ForCausalLM",
        old_style=True,
        config=SIZES | {"hidden_size": 128, "num_key_value_heads": 1, "sliding_window": 50},
        features=("layer norms", "plain network", "biases", "window", "tied head"),
    ),
    Case(
        name="starcoder2_unbiased",
        architecture="Starcoder2ForCausalLM",
        config=SIZES
        | {
            "use_bias": False,
            "tie_word_embeddings": False,
            "norm_epsilon": 1e-3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
        },
        features=("no biases", "untied head"),
    ),
)
