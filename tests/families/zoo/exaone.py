"""EXAONE 4."""

from __future__ import annotations

from families.case import SIZES, Case

CASES = (
    Case(
        name="exaone4",
        architecture="Exaone4ForCausalLM",
        config=SIZES
        | {
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "sliding_window": 40,
            "sliding_window_pattern": "LLLG",
            "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        },
        features=("windows in three of four layers", "positions where there is a window", "q and k norms"),
    ),
    Case(
        name="exaone4_numbered",
        architecture="Exaone4ForCausalLM",
        old_style=True,
        config=SIZES | {"num_hidden_layers": 3, "sliding_window": 24, "sliding_window_pattern": 3},
        features=("windows by a pattern", "norms behind"),
    ),
    Case(
        name="exaone4_1b",
        architecture="Exaone4ForCausalLM",
        config=SIZES
        | {
            "head_dim": 32,
            "sliding_window": None,
            "sliding_window_pattern": None,
            "layer_types": ["full_attention"] * 2,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e6,
                "factor": 16.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        features=("no window, positions everywhere", "rope llama3", "tied head"),
    ),
)
