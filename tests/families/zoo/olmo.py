"""OLMo 2 and 3."""

from __future__ import annotations

from families.case import ABSENT, SIZES, Case

_YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "rope_theta": 500_000.0,
    "original_max_position_embeddings": 64,
    "attention_factor": 1.2,
}

CASES = (
    Case(
        name="olmo2",
        architecture="Olmo2ForCausalLM",
        old_style=True,
        config=SIZES | {"hidden_size": 128, "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}},
        features=("norms behind", "q and k norms over the width"),
    ),
    Case(
        name="olmo2_biased",
        architecture="Olmo2ForCausalLM",
        config=SIZES
        | {"num_key_value_heads": 4, "attention_bias": True, "tie_word_embeddings": True, "rope_parameters": _YARN},
        features=("norms behind", "biases", "rope yarn", "tied head"),
    ),
    Case(
        name="olmo3",
        architecture="Olmo3ForCausalLM",
        config=SIZES
        | {
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "sliding_window": 40,
            "rope_parameters": {
                "full_attention": _YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
        },
        features=("windows in three of four layers", "a rope for each kind of layer", "norms behind"),
    ),
    Case(
        name="olmo3_old",
        architecture="Olmo3ForCausalLM",
        old_style=True,
        config=SIZES
        | {
            "num_hidden_layers": 4,
            "sliding_window": 24,
            "rope_parameters": {
                "full_attention": _YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 500_000.0},
            },
        },
        keys={"rope_local_base_freq": ABSENT},
        features=("windows in three of four layers", "rope yarn where there is none"),
    ),
)
