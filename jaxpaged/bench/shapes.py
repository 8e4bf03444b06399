"""Shapes of well-known models as Hugging Face configs: a benchmark with random weights needs nothing else. [no jax]

Sizes are those that the models' own config.json files state; the `tiny-` ones are for tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from jaxpaged.errors import ConfigError
from jaxpaged.weights.folder import read_json

Shape = Mapping[str, object]

_LLAMA3_ROPE = MappingProxyType(
    {
        "rope_type": "llama3",
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
)


def _shape(
    architecture: str,
    *,
    layers: int,
    embed: int,
    ffn: int,
    heads: int,
    kv_heads: int,
    vocab: int,
    positions: int,
    theta: float,
    dtype: str = "bfloat16",
    tied: bool = False,
    **others: object,
) -> Shape:
    return MappingProxyType(
        {
            "architectures": [f"{architecture.capitalize()}ForCausalLM"],
            "model_type": architecture,
            "num_hidden_layers": layers,
            "hidden_size": embed,
            "intermediate_size": ffn,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "vocab_size": vocab,
            "max_position_embeddings": positions,
            "rope_theta": theta,
            "tie_word_embeddings": tied,
            "torch_dtype": dtype,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            **others,
        }
    )


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "llama-150m": _shape(
            "llama",
            layers=12,
            embed=768,
            ffn=2048,
            heads=12,
            kv_heads=4,
            vocab=32000,
            positions=4096,
            theta=1e4,
            dtype="float32",
        ),
        "llama-3.2-1b": _shape(
            "llama",
            layers=16,
            embed=2048,
            ffn=8192,
            heads=32,
            kv_heads=8,
            vocab=128256,
            positions=131072,
            theta=5e5,
            tied=True,
            head_dim=64,
            rope_scaling={**_LLAMA3_ROPE, "factor": 32.0},
        ),
        "llama-3.1-8b": _shape(
            "llama",
            layers=32,
            embed=4096,
            ffn=14336,
            heads=32,
            kv_heads=8,
            vocab=128256,
            positions=131072,
            theta=5e5,
            rope_scaling={**_LLAMA3_ROPE, "factor": 8.0},
        ),
        "qwen2.5-0.5b": _shape(
            "qwen2",
            layers=24,
            embed=896,
            ffn=4864,
            heads=14,
            kv_heads=2,
            vocab=151936,
            positions=32768,
            theta=1e6,
            tied=True,
            rms_norm_eps=1e-6,
        ),
        "qwen2.5-7b": _shape(
            "qwen2",
            layers=28,
            embed=3584,
            ffn=18944,
            heads=28,
            kv_heads=4,
            vocab=152064,
            positions=32768,
            theta=1e6,
            rms_norm_eps=1e-6,
        ),
        "mistral-7b": _shape(
            "mistral",
            layers=32,
            embed=4096,
            ffn=14336,
            heads=32,
            kv_heads=8,
            vocab=32000,
            positions=32768,
            theta=1e4,
            sliding_window=4096,
        ),
        "mixtral-8x7b": _shape(
            "mixtral",
            layers=32,
            embed=4096,
            ffn=14336,
            heads=32,
            kv_heads=8,
            vocab=32000,
            positions=32768,
            theta=1e6,
            sliding_window=None,
            num_local_experts=8,
            num_experts_per_tok=2,
        ),
        "tiny-llama": _shape(
            "llama",
            layers=2,
            embed=64,
            ffn=128,
            heads=4,
            kv_heads=2,
            vocab=256,
            positions=512,
            theta=1e4,
            dtype="float32",
        ),
        "tiny-mistral": _shape(
            "mistral",
            layers=2,
            embed=64,
            ffn=128,
            heads=4,
            kv_heads=2,
            vocab=256,
            positions=512,
            theta=1e4,
            dtype="float32",
            sliding_window=32,
        ),
        "tiny-mixtral": _shape(
            "mixtral",
            layers=2,
            embed=64,
            ffn=128,
            heads=4,
            kv_heads=2,
            vocab=256,
            positions=512,
            theta=1e6,
            dtype="float32",
            sliding_window=None,
            num_local_experts=4,
            num_experts_per_tok=2,
        ),
    }
)


def shape_config(shape: str) -> Shape:
    """The config of a named shape, or of the config.json at this path.

    Raises ConfigError for what is neither, ModelError for a file that holds no JSON object.
    """
    if shape in SHAPES:
        return SHAPES[shape]
    path = Path(shape)
    if not path.is_file():
        raise ConfigError(
            name="--random-weights",
            value=shape,
            limit=f"it is neither a file nor one of {', '.join(SHAPES)}",
            fix="Name a shape, or give the path of a config.json",
        )
    return read_json(path, fix="Give the config.json of a model in Hugging Face layout")
