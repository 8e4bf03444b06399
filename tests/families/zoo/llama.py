"""Llama."""

from __future__ import annotations

from families.case import SIZES, Case

CASES = (
    Case(
        name="llama",
        architecture="LlamaForCausalLM",
        old_style=True,
        config=SIZES | {"hidden_size": 128, "num_key_value_heads": 4},  # G 1, D 32
    ),
    Case(
        name="llama_llama3",
        architecture="LlamaForCausalLM",
        config=SIZES
        | {
            "hidden_size": 256,
            "num_key_value_heads": 1,  # G 4, D 64
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        features=("rope llama3", "tied head"),
    ),
    Case(
        name="llama_biased",
        architecture="LlamaForCausalLM",
        old_style=True,
        config=SIZES
        | {
            "head_dim": 32,  # G 2, heads wider than E
            "attention_bias": True,
            "mlp_bias": True,
            "hidden_act": "gelu_pytorch_tanh",
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0},
        },
        features=("rope linear", "biases", "gelu"),
    ),
)
