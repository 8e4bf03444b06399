"""Phi-3 and Phi-4.

Longrope's case has long contexts alone: within one request transformers goes from the short factors to the long ones,
and no paged cache can follow (docs/DECISIONS.md). Both sides are in tests/families/test_longrope.py.
"""

from __future__ import annotations

from families.case import SIZES, Case

_SHORT = [1.0 + 0.1 * i for i in range(9)]
_LONG = [1.5 + 0.7 * i for i in range(9)]

CASES = (
    Case(
        name="phi3",
        architecture="Phi3ForCausalLM",
        config=SIZES | {"sliding_window": 24, "original_max_position_embeddings": 512},
        features=("fused products", "window"),
    ),
    Case(
        name="phi3_partial_old",
        architecture="Phi3ForCausalLM",
        old_style=True,
        config=SIZES
        | {
            "hidden_size": 128,
            "num_key_value_heads": 4,  # G 1, D 32
            "sliding_window": None,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5_000.0, "partial_rotary_factor": 0.75},
        },
        keys={
            "auto_map": {
                "AutoConfig": "configuration_phi3.Phi3Config",
                "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
            }
        },
        features=("fused products", "rope of a part of a head", "tied head"),
    ),
    Case(
        name="phi3_long_old",
        architecture="Phi3ForCausalLM",
        old_style=True,
        config=SIZES
        | {
            "original_max_position_embeddings": 2,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10_000.0,
                "short_factor": _SHORT,
                "long_factor": _LONG,
                "attention_factor": 1.3,
                "partial_rotary_factor": 0.75,
            },
        },
        features=("longrope, long factors", "rope of a part of a head"),
    ),
)
