"""A GGUF file: what its metadata says of the model, and its tensors under Hugging Face's names. [no jax]

The container and the blocks of quantised types are the `gguf` package's (an extra); ours is what they mean
for a model. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxpaged.errors import ModelError, UnsupportedModelError
from jaxpaged.weights.gguf_header import check_header
from jaxpaged.weights.header import shown

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K")
"""Types of tensors that can be read, in ggml's words."""
ARCHITECTURES: Mapping[str, str] = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_PACKAGE = "gguf>=0.19,<0.20"
"""As pyproject.toml has it: a checkout's extra cannot be named to pip from anywhere."""
_AGAIN = "Download the file again"
_FOLDER = "Use the model's folder in Hugging Face layout"
_ROPE_FACTORS = "rope_freqs.weight"
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_OF_LAYERS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BETAS = (("fast", 32.0), ("slow", 1.0))
"""Defaults of yarn."""
_LAYER = re.compile(r"blk\.(\d+)\.(.+)\.(weight|bias)")
_OUTER = re.compile(r"([a-z_]+)\.(weight|bias)")


class GGUFFile:
    """An open file, mapped to memory. shapes: of every tensor, by Hugging Face's name, as Hugging Face has it.

    strangers: names of tensors that no family here has. unsupported: sentences about types that cannot be read. Raises
    ModelError for a damaged file or one without the `gguf` package, UnsupportedModelError for an architecture.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = _open(path)
        self.architecture = self._text("general.architecture")
        if self.architecture not in ARCHITECTURES:
            raise UnsupportedModelError(
                name=f"general.architecture of {path.name}",
                value=self.architecture,
                limit=f"of GGUF files {', '.join(ARCHITECTURES)} are implemented",
                fix=_FOLDER,
            )
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.strangers: list[str] = []
        self.unsupported: list[str] = []
        self._tensors: dict[str, Any] = {}
        for tensor in self._reader.tensors:
            name = _hf_name(tensor.name)
            if name is None:
                self.strangers += [tensor.name] if tensor.name != _ROPE_FACTORS else []
                continue
            self.shapes[name] = tuple(int(size) for size in reversed(tensor.shape.tolist()))
            self._tensors[name] = tensor
            if tensor.tensor_type.name not in TYPES:
                told = (
                    f"unsupported type: {shown(tensor.name)} is {tensor.tensor_type.name}, "
                    f"not one of {', '.join(TYPES)}"
                )
                self.unsupported.append(told)

    def get(self, key: str) -> Any:
        """A value of the metadata: a number, a text, a list; None where there is none. Raises ModelError."""
        field = self._reader.get_field(key)
        try:
            return None if field is None else field.contents()
        except (ValueError, IndexError) as error:  # UnicodeDecodeError is a ValueError
            raise self._damaged(f"the value of {key} cannot be read: {error}") from error

    def config(self) -> dict[str, Any]:
        """The model as a config.json of Hugging Face would say it. Raises ModelError and UnsupportedModelError."""
        heads = self._count("attention.head_count")
        embed = self._count("embedding_length")
        head_dim = self._count("attention.key_length", default=embed // heads)
        self._require("attention.value_length", head_dim)
        self._require("rope.dimension_count", head_dim)
        self._require("expert_count", 0)
        context = self._count("context_length")
        if (window := self._count("attention.sliding_window", default=0, least=0)) and window < context:
            raise self._unsupported("attention.sliding_window", window, "windows are not read from GGUF files")
        return {
            "architectures": [ARCHITECTURES[self.architecture]],
            "model_type": self.architecture,
            "vocab_size": self._vocab_size(),
            "hidden_size": embed,
            "intermediate_size": self._count("feed_forward_length"),
            "num_hidden_layers": self._count("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self._count("attention.head_count_kv", default=heads),
            "head_dim": head_dim,
            "max_position_embeddings": context,
            "rms_norm_eps": self._shortest(self._number("attention.layer_norm_rms_epsilon")),
            "rope_theta": self._shortest(self._number("rope.freq_base", default=10_000.0)),
            "rope_scaling": self._rope_scaling(head_dim, context),
            "hidden_act": "silu",
            "tie_word_embeddings": "lm_head.weight" not in self.shapes,
            "torch_dtype": self._dtype(),
            **self._biases(),
        }

    def end_ids(self) -> list[int]:
        """The tokens that end a text, of those that the model has. Raises ModelError."""
        told = [self.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
        return sorted({i for i in told if type(i) is int and 0 <= i < self._vocab_size()})

    def read(self, name: str) -> NDArray[Any]:
        """The values of a tensor by Hugging Face's name, in its order of rows; quantised types as float32."""
        from gguf import quants

        tensor = self._tensors[name]
        values = quants.dequantize(tensor.data, tensor.tensor_type).reshape(self.shapes[name])
        if self.architecture == "llama" and (kind := re.search(r"self_attn\.([qk])_proj\.", name)):
            heads = self._count("attention.head_count")
            heads = heads if kind[1] == "q" else self._count("attention.head_count_kv", default=heads)
            return halves_apart(values, heads)
        return values

    def _vocab_size(self) -> int:
        shape = self.shapes.get("model.embed_tokens.weight", ())
        if len(shape) != 2:
            raise self._damaged("it has no matrix 'token_embd.weight'")
        return shape[0]

    def _rope_scaling(self, head_dim: int, context: int) -> dict[str, object] | None:
        kind = self.get(f"{self.architecture}.rope.scaling.type")
        factors = next((tensor for tensor in self._reader.tensors if tensor.name == _ROPE_FACTORS), None)
        if factors is not None:
            return self._llama3(np.asarray(factors.data, np.float32).reshape(-1), head_dim)
        if kind in (None, "none"):
            old = self._number("rope.scale_linear", default=1.0)  # of files that are older than the type
            return {"rope_type": "linear", "factor": old} if old != 1 else None
        factor = self._number("rope.scaling.factor")
        if kind == "linear":
            return {"rope_type": "linear", "factor": factor}
        if kind != "yarn":
            raise self._unsupported("rope.scaling.type", kind, "implemented are none, linear, yarn")
        for key, neutral in (("attn_factor", 1.0), ("yarn_log_multiplier", 0.0), ("yarn_ext_factor", 1.0)):
            self._require(f"rope.scaling.{key}", neutral)
        original = self._count("rope.scaling.original_context_length", default=context)
        betas = {f"beta_{end}": self._number(f"rope.scaling.yarn_beta_{end}", default=low) for end, low in _BETAS}
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **betas}

    def _llama3(self, factors: NDArray[np.float32], head_dim: int) -> dict[str, object]:
        """Llama 3's scaling, which GGUF files hold as a divisor for each frequency. The parameters that all of Meta's
        models share give them again, or it is another scaling."""
        theta = self._number("rope.freq_base", default=10_000.0)
        factor = float(factors.max(initial=1))
        expected = llama3_divisors(theta, head_dim, factor)
        if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-3):
            limit = "it is not Llama 3's scaling with the parameters of Meta's models"
            raise self._unsupported(_ROPE_FACTORS, factors[:4].tolist(), limit)
        return {
            "rope_type": "llama3",
            "factor": round(factor, 3),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }

    def _biases(self) -> dict[str, bool]:
        if self.architecture != "llama":
            return {}
        biased = {name.removeprefix("model.layers.0.") for name in self.shapes if name.endswith(".bias")}
        return {"attention_bias": "self_attn.o_proj.bias" in biased, "mlp_bias": "mlp.down_proj.bias" in biased}

    def _dtype(self) -> str:
        """The type that matrices have; of quantised ones, bfloat16."""
        types = {tensor.tensor_type.name for name, tensor in self._tensors.items() if len(self.shapes[name]) == 2}
        return {("F32",): "float32", ("F16",): "float16"}.get(tuple(types), "bfloat16")

    def _count(self, key: str, *, default: int | None = None, least: int = 1) -> int:
        value = self.get(f"{self.architecture}.{key}")
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ModelError(
                name=f"{self.architecture}.{key} of {self.path.name}",
                value=value,
                limit="it is missing" if value is None else f"it must be one whole number from {least}",
                fix=_AGAIN if value is None else _FOLDER,
            )
        return value

    def _number(self, key: str, *, default: float | None = None) -> float:
        value = self.get(f"{self.architecture}.{key}")
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            name = f"{self.architecture}.{key} of {self.path.name}"
            limit = "it is missing" if value is None else "it must be a number"
            raise ModelError(name=name, value=value, limit=limit, fix=_AGAIN)
        return float(value)

    @staticmethod
    def _shortest(value: float) -> float:
        """The shortest decimal number that has the same float32: 1e-5 was written, 9.999999747378752e-06 is stored."""
        with np.errstate(over="ignore"):  # whoever reads the config refuses what is not finite
            return float(str(np.float32(value)))

    def _text(self, key: str) -> str:
        if not isinstance(value := self.get(key), str):
            raise self._damaged(f"it has no {key}")
        return value

    def _require(self, key: str, neutral: float) -> None:
        if (value := self.get(f"{self.architecture}.{key}")) not in (None, neutral):
            raise self._unsupported(key, value, f"only {neutral} is implemented")

    def _unsupported(self, key: str, value: object, limit: str) -> UnsupportedModelError:
        name = f"{key} of {self.path.name}"
        return UnsupportedModelError(name=name, value=value, limit=limit, fix=_FOLDER)

    def _damaged(self, limit: str) -> ModelError:
        return ModelError(name="file", value=str(self.path), limit=limit, fix=_AGAIN)


def halves_apart(values: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of a query or key projection [heads * D, ...] with pairs that rotate together side by side (llama.cpp's
    order for its llama architecture), as halves of a head (Hugging Face's)."""
    pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def llama3_divisors(theta: float, head_dim: int, factor: float) -> NDArray[np.float64]:
    """What Llama 3's scaling divides each frequency by: f64[D / 2] (`apply_scaling` in Meta's reference code)."""
    with np.errstate(all="ignore"):  # a base of 0 or less gives what equals no divisor
        wavelengths = 2 * np.pi * np.float64(theta) ** (np.arange(0, head_dim, 2) / head_dim)
        smooth = np.clip((8192 / wavelengths - 1.0) / (4.0 - 1.0), 0.0, 1.0)
        return 1 / ((1 - smooth) / factor + smooth)


def _hf_name(name: str) -> str | None:
    """blk.3.ffn_up.weight -> model.layers.3.mlp.up_proj.weight; None for a tensor that no family here has."""
    if match := _LAYER.fullmatch(name):
        layer, stem, kind = match.groups()
        ours = _OF_LAYERS.get(stem)
        return None if ours is None else f"model.layers.{layer}.{ours}.{kind}"
    match = _OUTER.fullmatch(name)
    ours = None if match is None else _OUTSIDE.get(match[1])
    return None if match is None or ours is None else f"{ours}.{match[2]}"


def _open(path: Path) -> Any:
    """gguf's reader. Raises ModelError without the package, and for a file that it cannot read."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        limit = "a GGUF file needs the package gguf"
        raise ModelError(name="model", value=str(path), limit=limit, fix=f'pip install "{_PACKAGE}"') from error
    try:
        check_header(path)
        return GGUFReader(os.fspath(path))
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        limit = f"it is cut short or damaged: {' '.join(str(error).split())[:200]}"
        raise ModelError(name="file", value=str(path), limit=limit, fix=_AGAIN) from error
