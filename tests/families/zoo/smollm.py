"""SmolLM 3."""

from __future__ import annotations

from families.case import SIZES, Case

CASES = (
    Case(
        name="smollm3",
        architecture="SmolLM3ForCausalLM",
        old_style=True,
        config=SIZES | {"num_hidden_layers": 4, "hidden_size": 128},
        keys={"no_rope_layers": [1, 1, 1, 0]},
        features=("no positions in every fourth layer", "tied head"),
    ),
    Case(
        name="smollm3_windows",
        architecture="SmolLM3ForCausalLM",
        config=SIZES
        | {
            "num_hidden_layers": 3,
            "no_rope_layer_interval": 3,
            "use_sliding_window": True,
            "sliding_window": 30,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
        },
        features=("a window where there are no positions", "biases"),
        unseen={r".*layers\.2\..*k_proj\.bias": "no positions: a constant added to all scores of a query"},
    ),
)
