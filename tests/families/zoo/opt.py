"""OPT."""

from __future__ import annotations

from families.case import SIZES, Case

_SIZES = {key: value for key, value in SIZES.items() if key not in ("num_key_value_heads", "intermediate_size")} | {
    "ffn_dim": 160
}
_CONSTANT = {r".*k_proj\.bias": "a constant added to all scores of a query"}

CASES = (
    Case(
        name="opt",
        architecture="OPTForCausalLM",
        old_style=True,
        config=_SIZES,
        features=("learned positions with an offset", "relu", "tied head"),
        unseen=_CONSTANT,
    ),
    Case(
        name="opt_350m",
        architecture="OPTForCausalLM",
        old_style=True,
        config=_SIZES | {"do_layer_norm_before": False, "word_embed_proj_dim": 48},
        features=("norms behind the sums", "narrow token vectors", "no last norm"),
        unseen=_CONSTANT,
    ),
    Case(
        name="opt_unbiased",
        architecture="OPTForCausalLM",
        config=_SIZES
        | {
            "hidden_size": 128,
            "enable_bias": False,
            "_remove_final_layer_norm": True,
            "activation_function": "gelu",
            "tie_word_embeddings": False,
        },
        features=("no biases", "no last norm", "untied head"),
    ),
)
