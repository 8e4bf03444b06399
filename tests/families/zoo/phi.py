"""Phi 1 and 2."""

from __future__ import annotations

from families.case import SIZES, Case

CASES = (
    Case(
        name="phi",
        architecture="PhiForCausalLM",
        old_style=True,
        config=SIZES
        | {
            "hidden_size": 128,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
        },
        features=("attention and network side by side, one norm", "partial rope", "bias of the head"),
    ),
    Case(
        name="phi_normed",
        architecture="PhiForCausalLM",
        config=SIZES
        | {
            "qk_layernorm": True,
            "hidden_size": 256,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10_000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 128,
                "partial_rotary_factor": 0.25,
            },
        },
        features=("q and k layer norms", "partial rope yarn"),
    ),
)
