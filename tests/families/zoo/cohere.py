"""Cohere 2."""

from __future__ import annotations

from families.case import SIZES, Case

CASES = (
    Case(
        name="cohere2",
        architecture="Cohere2ForCausalLM",
        old_style=True,
        config=SIZES | {"hidden_size": 128, "num_hidden_layers": 4, "sliding_window": 40, "logit_scale": 0.25},
        keys={
            "sliding_window_pattern": 4,
            "layer_switch": 4,
            "position_embedding_type": "rope_gptj",
            "order_of_interleaved_layers": "local_attn_first",
            "rotary_pct": 1.0,
            "use_parallel_block": True,
            "cache_implementation": "hybrid",
            "head_dim": 32,
        },
        features=("attention and network side by side, one norm", "windows in three of four layers", "tied head"),
    ),
    Case(
        name="cohere2_biased",
        architecture="Cohere2ForCausalLM",
        config=SIZES
        | {
            "num_hidden_layers": 3,
            "num_key_value_heads": 1,
            "attention_bias": True,
            "sliding_window": 24,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 50_000.0},
        },
        features=("positions where there is a window", "biases", "untied head"),
        unseen={r".*layers\.0\..*k_proj\.bias": "no positions: a constant added to all scores of a query"},
    ),
)
