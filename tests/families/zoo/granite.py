"""Granite."""

from __future__ import annotations

from families.case import SIZES, Case

CASES = (
    Case(
        name="granite",
        architecture="GraniteForCausalLM",
        old_style=True,
        config=SIZES
        | {
            "hidden_size": 128,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.125,
            "logits_scaling": 4.0,
            "tie_word_embeddings": True,
        },
        features=("factors on embeddings, residuals, scores and logits", "tied head"),
    ),
    Case(
        name="granite_biased",
        architecture="GraniteForCausalLM",
        config=SIZES
        | {
            "attention_bias": True,
            "mlp_bias": True,
            "residual_multiplier": 1.7,
            "attention_multiplier": 0.3,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0},
        },
        features=("factors on residuals and scores", "biases"),
    ),
)
