"""Tiny transformers models with random weights, written as model folders: the oracle of parity tests.

Every weight is drawn so that leaving it out shows: biases and norms too, and matrices large enough that attention
looks somewhere and logits differ. transformers is imported only when a model is made.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """config: keyword arguments of the transformers config. old_style: config.json as transformers 4 wrote it."""

    architecture: str
    config: dict[str, Any]
    old_style: bool = False
    rope: dict[str, Any] = field(default_factory=dict)


_SIZES: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 211,
    "max_position_embeddings": 512,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CASES = {
    "llama": Case(
        architecture="Llama", old_style=True, config=_SIZES | {"hidden_size": 128, "num_key_value_heads": 4}
    ),  # G 1, D 32
    "llama_llama3": Case(
        architecture="Llama",
        config=_SIZES
        | {"hidden_size": 256, "num_key_value_heads": 1, "tie_word_embeddings": True, "rms_norm_eps": 1e-5},
        rope={
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),  # G 4, D 64
    "llama_biased": Case(
        architecture="Llama",
        old_style=True,
        config=_SIZES | {"head_dim": 32, "attention_bias": True, "mlp_bias": True, "hidden_act": "gelu_pytorch_tanh"},
        rope={"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0},
    ),  # G 2, heads wider than E
    "qwen2": Case(
        architecture="Qwen2",
        old_style=True,
        config=_SIZES
        | {"hidden_size": 224, "num_attention_heads": 7, "num_key_value_heads": 1, "tie_word_embeddings": True},
        rope={"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6, "original_max_position_embeddings": 128},
    ),  # G 7, D 32, qkv bias
    "qwen2_windows": Case(
        architecture="Qwen2",
        config=_SIZES
        | {
            "hidden_size": 256,
            "use_sliding_window": True,
            "sliding_window": 24,
            "max_window_layers": 1,
        },
    ),  # G 2, D 64, one full layer and one with a window
    "qwen3": Case(
        architecture="Qwen3",
        config=_SIZES | {"head_dim": 128},
        rope={
            "rope_type": "yarn",
            "factor": 8.0,
            "rope_theta": 1e6,
            "original_max_position_embeddings": 64,
            "mscale": 1.2,
            "mscale_all_dim": 0.7,
            "truncate": False,
        },
    ),  # D 128, q and k norms
    "mistral": Case(
        architecture="Mistral",
        config=_SIZES | {"hidden_size": 256, "num_attention_heads": 8, "sliding_window": 70},
        old_style=True,
    ),  # G 4, D 32, a window longer than a block
    "mixtral": Case(
        architecture="Mixtral",
        config=_SIZES | {"hidden_size": 128, "num_local_experts": 8, "num_experts_per_tok": 2},
        old_style=True,
    ),
    "mixtral_window": Case(
        architecture="Mixtral",
        config=_SIZES | {"head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 9},
    ),
}


def make_folder(folder: Path, case: Case, *, seed: int = 0, max_shard_size: str = "5GB") -> Any:
    """Write the case as a model folder; returns the transformers model itself, float32, ready to compare with."""
    import torch
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = getattr(transformers, f"{case.architecture}Config")(
        **case.config, **({"rope_parameters": dict(case.rope)} if case.rope else {})
    )
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{case.architecture}ForCausalLM")(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(1.0 + 0.3 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(1.5 * parameter.shape[-1] ** -0.5 * noise)
    model = model.eval().float()
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if case.old_style:
        _rewrite_as_old(folder / "config.json")
    return model


def oracle_logits(model: Any, token_ids: list[int]) -> Any:
    """float32 [T, V] of a transformers model, as numpy."""
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor([token_ids])).logits[0].numpy()


def _rewrite_as_old(path: Path) -> None:
    """rope_theta, rope_scaling and torch_dtype instead of rope_parameters, layer_types and dtype."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    path.write_text(json.dumps(config))
