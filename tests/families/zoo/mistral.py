"""Mistral and Mixtral."""

from __future__ import annotations

from families.case import SIZES, Case

CASES = (
    Case(
        name="mistral",
        architecture="MistralForCausalLM",
        old_style=True,
        config=SIZES | {"hidden_size": 256, "num_attention_heads": 8, "sliding_window": 70},  # G 4, D 32
        features=("window longer than a block",),
    ),
    Case(
        name="mistral_plain",
        architecture="MistralForCausalLM",
        config=SIZES | {"head_dim": 64, "sliding_window": None},
        features=("no window", "head dim of its own"),
    ),
    Case(
        name="mixtral",
        architecture="MixtralForCausalLM",
        old_style=True,
        config=SIZES | {"hidden_size": 128, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None},
        features=("experts",),
    ),
    Case(
        name="mixtral_window",
        architecture="MixtralForCausalLM",
        config=SIZES | {"head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 9},
        features=("experts", "window shorter than a block"),
    ),
)
