"""Falcon, in all its forms but those with ALiBi."""

from __future__ import annotations

from families.case import ABSENT, SIZES, Case

_SIZES = {key: value for key, value in SIZES.items() if key not in ("num_key_value_heads", "intermediate_size")} | {
    "hidden_size": 128
}

CASES = (
    Case(
        name="falcon_40b",
        architecture="FalconForCausalLM",
        old_style=True,
        config=_SIZES | {"new_decoder_architecture": True, "num_kv_heads": 2},
        keys={
            "hidden_size": ABSENT,
            "n_embed": 128,
            "num_kv_heads": 2,
        },
        features=("attention and network side by side, two norms", "q, k and v by kv head", "tied head"),
    ),
    Case(
        name="falcon_11b",
        architecture="FalconForCausalLM",
        config=_SIZES
        | {
            "new_decoder_architecture": True,
            "num_kv_heads": 1,
            "num_ln_in_parallel_attn": 1,
            "ffn_hidden_size": 160,
            "tie_word_embeddings": False,
        },
        features=("attention and network side by side, one norm", "untied head"),
    ),
    Case(
        name="falcon_7b",
        architecture="FalconForCausalLM",
        old_style=True,
        config=_SIZES | {"multi_query": True, "parallel_attn": True},
        features=("one kv head", "attention and network side by side, one norm"),
    ),
    Case(
        name="falcon_in_turn",
        architecture="FalconForCausalLM",
        config=_SIZES | {"multi_query": False, "parallel_attn": False, "bias": True},
        features=("attention and network in turn", "biases", "q, k and v by head"),
    ),
)
