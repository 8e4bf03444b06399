"""GPT-2 and GPT-NeoX."""

from __future__ import annotations

from families.case import ABSENT, SIZES, Case

_GPT2 = {
    "vocab_size": SIZES["vocab_size"],
    "n_positions": 512,
    "n_embd": 96,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_NEOX = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}

CASES = (
    Case(
        name="gpt2",
        architecture="GPT2LMHeadModel",
        old_style=True,
        config=_GPT2,
        keys={"n_ctx": 512},
        features=("learned positions", "layer norms", "fused q, k and v", "transposed products", "tied head"),
    ),
    Case(
        name="gpt2_wide",
        architecture="GPT2LMHeadModel",
        config=_GPT2
        | {
            "n_embd": 128,
            "n_head": 2,
            "n_inner": 160,
            "activation_function": "relu",
            "layer_norm_epsilon": 1e-3,
            "tie_word_embeddings": False,
        },
        features=("learned positions", "untied head"),
    ),
    Case(
        name="gpt_neox",
        architecture="GPTNeoXForCausalLM",
        old_style=True,
        config=_NEOX
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 5_000.0, "partial_rotary_factor": 0.25}},
        keys={
            "rope_theta": ABSENT,
            "rope_scaling": ABSENT,
            "partial_rotary_factor": ABSENT,
            "rotary_emb_base": 5_000.0,
            "rotary_pct": 0.25,
        },
        features=("attention and network side by side", "partial rope", "q, k and v by head"),
    ),
    Case(
        name="gpt_neox_in_turn",
        architecture="GPTNeoXForCausalLM",
        config=_NEOX
        | {
            "hidden_size": 128,
            "use_parallel_residual": False,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "hidden_act": "gelu_new",
            "rope_parameters": {
                "rope_type": "linear",
                "rope_theta": 10_000.0,
                "factor": 3.0,
                "partial_rotary_factor": 0.5,
            },
        },
        features=("attention and network in turn", "partial rope linear", "tied head"),
    ),
)
