"""Qwen2 and Qwen3 with experts."""

from __future__ import annotations

from families.case import SIZES, Case

_SIZES = SIZES | {"head_dim": 32, "num_experts": 8, "moe_intermediate_size": 64, "num_experts_per_tok": 3}

CASES = (
    Case(
        name="qwen2_moe",
        architecture="Qwen2MoeForCausalLM",
        config=_SIZES
        | {
            "num_hidden_layers": 3,
            "shared_expert_intermediate_size": 96,
            "mlp_only_layers": [1],
            "norm_topk_prob": True,
            "use_sliding_window": True,
            "sliding_window": 24,
            "layer_types": ["full_attention", "full_attention", "sliding_attention"],
        },
        features=("experts beside a gated shared one", "layers without experts", "q, k and v biases"),
    ),
    Case(
        name="qwen2_moe_old",
        architecture="Qwen2MoeForCausalLM",
        old_style=True,
        config=_SIZES
        | {
            "head_dim": 24,
            "num_hidden_layers": 4,
            "shared_expert_intermediate_size": 160,
            "decoder_sparse_step": 2,
            "qkv_bias": False,
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 70,
            "max_window_layers": 2,
        },
        features=("experts in every other layer", "windows by turns", "tied head"),
    ),
    Case(
        name="qwen3_moe",
        architecture="Qwen3MoeForCausalLM",
        config=_SIZES
        | {
            "num_hidden_layers": 3,
            "norm_topk_prob": True,
            "mlp_only_layers": [0],
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 40,
        },
        features=("experts", "q and k norms", "layers without experts", "biases"),
    ),
    Case(
        name="qwen3_moe_old",
        architecture="Qwen3MoeForCausalLM",
        old_style=True,
        config=_SIZES
        | {
            "num_experts": 16,
            "num_experts_per_tok": 8,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e6,
                "original_max_position_embeddings": 64,
            },
        },
        keys={"max_window_layers": 2},
        features=("experts, their weights as the softmax gives them", "rope yarn", "tied head"),
    ),
)
