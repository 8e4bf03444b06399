"""Granite with experts."""

from __future__ import annotations

from families.case import SIZES, Case

_SIZES = SIZES | {
    "head_dim": 24,
    "intermediate_size": 64,
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
    "attention_multiplier": 0.15,
    "embedding_multiplier": 3.0,
    "logits_scaling": 0.7,
    "residual_multiplier": 0.6,
}

CASES = (
    Case(
        name="granitemoe",
        architecture="GraniteMoeForCausalLM",
        config=_SIZES | {"attention_bias": True},
        features=("experts", "multipliers", "biases"),
    ),
    Case(
        name="granitemoe_old",
        architecture="GraniteMoeForCausalLM",
        old_style=True,
        config=_SIZES
        | {
            "num_key_value_heads": 4,  # G 1
            "num_experts_per_tok": 8,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e4},
        },
        features=("experts", "multipliers", "tied head"),
    ),
    Case(
        name="granitemoeshared",
        architecture="GraniteMoeSharedForCausalLM",
        config=_SIZES | {"shared_intermediate_size": 96},
        features=("experts beside a shared one", "multipliers"),
    ),
    Case(
        name="granitemoeshared_old",
        architecture="GraniteMoeSharedForCausalLM",
        old_style=True,
        config=_SIZES | {"shared_intermediate_size": 32, "attention_bias": True, "tie_word_embeddings": True},
        features=("experts beside a shared one", "multipliers", "biases", "tied head"),
    ),
)
