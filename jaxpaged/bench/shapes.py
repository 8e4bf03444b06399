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
_GELU = MappingProxyType(dict.fromkeys(("hidden_act", "hidden_activation"), "gelu_pytorch_tanh"))


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
        "gemma-2-9b": _shape(
            "gemma2",
            layers=42,
            embed=3584,
            ffn=14336,
            heads=16,
            kv_heads=8,
            vocab=256000,
            positions=8192,
            theta=1e4,
            tied=True,
            head_dim=256,
            query_pre_attn_scalar=256,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
            sliding_window=4096,
            rms_norm_eps=1e-6,
            **_GELU,
        ),
        # the text half of the model alone
        "gemma-3-12b": _shape(
            "gemma3",
            layers=48,
            embed=3840,
            ffn=15360,
            heads=16,
            kv_heads=8,
            vocab=262208,
            positions=131072,
            theta=1e6,
            tied=True,
            head_dim=256,
            query_pre_attn_scalar=256,
            sliding_window=1024,
            sliding_window_pattern=6,
            rope_local_base_freq=1e4,
            rope_scaling={"rope_type": "linear", "factor": 8.0},
            rms_norm_eps=1e-6,
            **_GELU,
        ),
        "gpt-oss-20b": _shape(
            "gpt_oss",
            architectures=["GptOssForCausalLM"],
            layers=24,
            embed=2880,
            ffn=2880,
            heads=64,
            kv_heads=8,
            vocab=201088,
            positions=131072,
            theta=150_000.0,
            head_dim=64,
            num_local_experts=32,
            num_experts_per_tok=4,
            attention_bias=True,
            sliding_window=128,
            swiglu_limit=7.0,
            rope_scaling={
                "rope_type": "yarn",
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 4096,
            },
        ),
        "qwen3-30b-a3b": _shape(
            "qwen3_moe",
            architectures=["Qwen3MoeForCausalLM"],
            layers=48,
            embed=2048,
            ffn=6144,
            heads=32,
            kv_heads=4,
            vocab=151936,
            positions=40960,
            theta=1e6,
            head_dim=128,
            num_experts=128,
            num_experts_per_tok=8,
            moe_intermediate_size=768,
            norm_topk_prob=True,
            rms_norm_eps=1e-6,
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
