"""StableLM."""

from __future__ import annotations

from families.case import SIZES, Case

_ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.25}

CASES = (
    Case(
        name="stablelm",
        architecture="StableLmForCausalLM",
        old_style=True,
        config=SIZES | {"hidden_size": 128, "use_qkv_bias": True, "rope_parameters": _ROPE},
        features=("layer norms", "gated network", "partial rope", "q, k and v biases"),
    ),
    Case(
        name="stablelm_12b",
        architecture="StableLmForCausalLM",
        config=SIZES
        | {
            "hidden_size": 128,
            "use_parallel_residual": True,
            "qk_layernorm": True,
            "tie_word_embeddings": True,
            "rope_parameters": _ROPE | {"partial_rotary_factor": 0.5},
        },
        features=(
            "attention and network side by side, one norm",
            "q and k norms with weights of each head",
            "tied head",
        ),
    ),
)
