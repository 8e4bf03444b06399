"""Small models as GGUF files and as Hugging Face folders, with the arithmetic of blocks written out once more."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray
from safetensors.numpy import save_file

Weights = NDArray[Any]
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 50_000.0,
}
NAMES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def shapes(architecture: str, *, tied: bool = False) -> dict[str, tuple[int, ...]]:
    """Hugging Face's names and shapes."""
    embed, ffn, queries, keys = 256, 256, 256, 128
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (embed,),
        "post_attention_layernorm.weight": (embed,),
        "self_attn.q_proj.weight": (queries, embed),
        "self_attn.k_proj.weight": (keys, embed),
        "self_attn.v_proj.weight": (keys, embed),
        "self_attn.o_proj.weight": (embed, queries),
        "mlp.gate_proj.weight": (ffn, embed),
        "mlp.up_proj.weight": (ffn, embed),
        "mlp.down_proj.weight": (embed, ffn),
    }
    if architecture == "qwen2":
        layer |= {f"self_attn.{part}_proj.bias": (size,) for part, size in (("q", queries), ("k", keys), ("v", keys))}
    if architecture == "qwen3":
        layer |= {f"self_attn.{part}_norm.weight": (64,) for part in "qk"}
    found = {f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}
    found |= {"model.embed_tokens.weight": (64, embed), "model.norm.weight": (embed,)}
    return found if tied else found | {"lm_head.weight": (64, embed)}


def theirs(name: str) -> str:
    """A tensor's name in a GGUF file."""
    stem, kind = name.rsplit(".", 1)
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{kind}"
    layer, rest = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{LAYER[rest]}.{kind}"


def rotated_rows(values: Weights, head_dim: int = 64) -> Weights:
    """llama.cpp's order of the rows of q and k: row 2 i + s of a head is Hugging Face's row i of half s."""
    found = np.empty_like(values)
    half = head_dim // 2
    for row in range(values.shape[0]):
        head, at = divmod(row, head_dim)
        s, i = divmod(at, half)
        found[head * head_dim + 2 * i + s] = values[row]
    return found


def q8_0(blocks: Weights) -> Weights:
    """Blocks of 32: a float16 scale, 32 int8."""
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    return scales * blocks[:, 2:].view(np.int8).astype(np.float32)


def q4_0(blocks: Weights) -> Weights:
    """Blocks of 32: a float16 scale, 16 bytes; low halves first, then high ones; 8 stands for 0."""
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    codes = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    return scales * (codes.astype(np.float32) - 8)


def scales_and_minima(packed: Weights) -> list[tuple[int, int]]:
    """The eight pairs of 6 bits in 12 bytes: four pairs plainly, with the upper bits of four more above them."""
    first = [(packed[j] & 63, packed[j + 4] & 63) for j in range(4)]
    more = [
        ((packed[j + 8] & 15) | (packed[j] >> 6) << 4, (packed[j + 8] >> 4) | (packed[j + 4] >> 6) << 4)
        for j in range(4)
    ]
    return [(int(scale), int(minimum)) for scale, minimum in first + more]


def q4_k(blocks: Weights, *, high: int = 0) -> Weights:
    """Blocks of 256: float16 d and dmin, 12 bytes of eight 6-bit scales and minima, 128 bytes of codes.

    Eight groups of 32 codes: value = d * scale * code - dmin * minimum. Groups 2 j and 2 j + 1 are the low and high
    halves of bytes 32 j to 32 j + 31. high: bytes before those, whose bit j is the fifth of group j's codes.
    """
    found = np.empty((len(blocks), 8, 32), np.float32)
    for block, target in zip(blocks, found, strict=True):
        d, dmin = block[:4].copy().view(np.float16).astype(np.float32)
        fifths, halves = block[16 : 16 + high], block[16 + high :]
        for j, (scale, minimum) in enumerate(scales_and_minima(block[4:16])):
            codes = halves[32 * (j // 2) : 32 * (j // 2 + 1)] >> 4 * (j % 2) & 15
            if high:
                codes = codes + 16 * (fifths >> j & 1)
            target[j] = d * np.float32(scale) * codes.astype(np.float32) - dmin * np.float32(minimum)
    return found


def q5_k(blocks: Weights) -> Weights:
    """As Q4_K, with 32 bytes of fifth bits before the codes."""
    return q4_k(blocks, high=32)


def q6_k(blocks: Weights) -> Weights:
    """Blocks of 256: 128 bytes of lower halves, 64 of upper pairs of bits, 16 int8 scales, a float16 d. 32 means 0.

    value = d * scale * (code - 32), a scale for every 16. Of 128 values, four rows of 32, rows r and r + 2 are the low
    and high halves of the same 32 bytes, and row r has bits 2 r and 2 r + 1 of the 32 bytes of pairs.
    """
    found = np.empty((len(blocks), 2, 4, 2, 16), np.float32)
    for block, target in zip(blocks, found, strict=True):
        d = block[208:].copy().view(np.float16).astype(np.float32)[0]
        scales = block[192:208].view(np.int8).astype(np.float32).reshape(2, 4, 2)
        for half in range(2):
            lower, upper = block[64 * half : 64 * half + 64].reshape(2, 32), block[128 + 32 * half : 160 + 32 * half]
            for row in range(4):
                codes = (lower[row % 2] >> 4 * (row // 2) & 15) + 16 * (upper >> 2 * row & 3)
                for part in range(2):
                    values = codes[16 * part : 16 * part + 16].astype(np.float32) - 32
                    target[half, row, part] = d * scales[half, row, part] * values
    return found


BLOCKS: Mapping[str, tuple[int, int, Callable[[Weights], Weights]]] = {
    "Q8_0": (32, 34, q8_0),
    "Q4_0": (32, 18, q4_0),
    "Q4_K": (256, 144, q4_k),
    "Q5_K": (256, 176, q5_k),
    "Q6_K": (256, 210, q6_k),
}
"""Values and bytes of a block, and what the bytes mean."""
FLOATS = {"Q8_0": slice(0, 2), "Q4_0": slice(0, 2), "Q4_K": slice(0, 4), "Q5_K": slice(0, 4), "Q6_K": slice(208, 210)}
"""Bytes of a block that are float16: any others would mean something."""


def draw(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Weights, Weights]:
    """Random contents of a tensor as a file has them, and the float32 values that they mean."""
    if kind in ("F32", "F16", "BF16") or len(shape) == 1:
        values = rng.standard_normal(shape, np.float32) / 16 + (len(shape) == 1)
        if kind == "F16" and len(shape) == 2:
            return (half := values.astype(np.float16)), half.astype(np.float32)
        if kind == "BF16" and len(shape) == 2:
            bits = (values.view(np.uint32) >> 16).astype(np.uint16)
            return bits.view(np.uint8), (bits.astype(np.uint32) << 16).view(np.float32)
        return values, values
    size, num_bytes, meaning = BLOCKS[kind]
    blocks = rng.integers(0, 256, (shape[0] * shape[1] // size, num_bytes), np.uint8)
    scales = (rng.random((len(blocks), 2)) / 64).astype(np.float16)
    place = FLOATS[kind]
    blocks[:, place] = scales.view(np.uint8)[:, : place.stop - place.start]
    return blocks.reshape(shape[0], -1), meaning(blocks).reshape(shape)


def write_both(
    place: Path,
    architecture: str,
    kind: str = "F32",
    *,
    tied: bool = False,
    change: Callable[[dict[str, Any], dict[str, tuple[Weights, str]]], object] = lambda metadata, tensors: None,
) -> tuple[Path, Path]:
    """A GGUF file and a float32 folder of the same model. change: edits metadata and tensors (contents, type) of the
    file before it is written."""
    rng, folder = np.random.default_rng(5), place / "hf"
    contents: dict[str, tuple[Weights, str]] = {}
    values: dict[str, Weights] = {}
    for name, shape in shapes(architecture, tied=tied).items():
        raw, meant = draw(kind, shape, rng)
        values[name] = np.ascontiguousarray(meant)
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            raw = rotated_rows(raw)
        contents[theirs(name)] = (np.ascontiguousarray(raw), kind if len(shape) == 2 else "F32")
    folder.mkdir()
    save_file(values, folder / "model.safetensors")
    config = SIZES | {"architectures": [f"{NAMES[architecture]}ForCausalLM"], "tie_word_embeddings": tied}
    (folder / "config.json").write_text(json.dumps(config))
    metadata: dict[str, Any] = {
        "context_length": 128,
        "embedding_length": 256,
        "block_count": 2,
        "feed_forward_length": 256,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 64,
        "attention.value_length": 64,
        "rope.dimension_count": 64,
        "rope.freq_base": 50_000.0,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    change(metadata, contents)
    path = place / "model.gguf"
    writer = GGUFWriter(str(path), metadata.pop("architecture", architecture))
    for key, value in metadata.items():
        add(writer, key if key.startswith("tokenizer.") else f"{architecture}.{key}", value)
    for name, (raw, named) in contents.items():
        writer.add_tensor(name, raw, raw_dtype=GGMLQuantizationType[named])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, folder


def add(writer: GGUFWriter, key: str, value: Any) -> None:
    """One entry of the metadata, by the type of its value."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
