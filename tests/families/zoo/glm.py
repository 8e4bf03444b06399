"""GLM 4."""

from __future__ import annotations

from families.case import SIZES, Case

CASES = (
    Case(
        name="glm4",
        architecture="Glm4ForCausalLM",
        old_style=True,
        config=SIZES
        | {
            "head_dim": 32,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
        },
        features=("norms before and behind", "partial rope that pairs neighbours", "q, k and v biases"),
    ),
    Case(
        name="glm4_unbiased",
        architecture="Glm4ForCausalLM",
        config=SIZES
        | {
            "head_dim": 64,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 1.0},
        },
        features=("norms before and behind", "rope that pairs neighbours", "tied head"),
    ),
)
