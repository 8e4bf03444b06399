"""OLMoE."""

from __future__ import annotations

from families.case import SIZES, Case

_SIZES = SIZES | {"intermediate_size": 64, "num_experts": 8, "num_experts_per_tok": 3}

CASES = (
    Case(
        name="olmoe",
        architecture="OlmoeForCausalLM",
        config=_SIZES | {"clip_qkv": 0.9, "attention_bias": True, "norm_topk_prob": True},
        features=("experts", "norms of all heads together", "clipping after them", "biases"),
    ),
    Case(
        name="olmoe_old",
        architecture="OlmoeForCausalLM",
        old_style=True,
        config=_SIZES | {"num_key_value_heads": 4, "tie_word_embeddings": True, "rms_norm_eps": 1e-6},
        features=("experts", "norms of all heads together", "tied head"),
    ),
)
