"""Folders of a model small enough to write by hand, right ones and ones for a test to spoil."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxpaged.errors import WeightsError
from jaxpaged.weights.load import load_model
from jaxpaged.weights.safetensors import INDEX, SINGLE

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 6,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 2,
    "max_position_embeddings": 16,
}
SHAPES = {
    "model.embed_tokens.weight": (11, 8),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.k_proj.weight": (4, 8),
    "model.layers.0.self_attn.v_proj.weight": (4, 8),
    "model.layers.0.self_attn.o_proj.weight": (8, 8),
    "model.layers.0.post_attention_layernorm.weight": (8,),
    "model.layers.0.mlp.gate_proj.weight": (6, 8),
    "model.layers.0.mlp.up_proj.weight": (6, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 6),
    "model.norm.weight": (8,),
    "lm_head.weight": (11, 8),
}
Q, K, V = (f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv")
GATE, UP = (f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up"))
A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}


def write_config(folder: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    return folder


def write_single(folder: Path, values: dict[str, np.ndarray], **changes: object) -> Path:
    write_config(folder, **changes)
    save_file(values, folder / SINGLE)
    return folder


def write_sharded(folder: Path, values: dict[str, np.ndarray]) -> dict[str, str]:
    """Two shards and their index, which is returned for the test to spoil."""
    write_config(folder)
    names = list(values)
    files = {name: (A if i < len(names) // 2 else B) for i, name in enumerate(names)}
    for file in (A, B):
        save_file({name: values[name] for name in names if files[name] == file}, folder / file)
    write_index(folder, files)
    return files


def write_index(folder: Path, files: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


def problems(folder: Path) -> list[str]:
    with pytest.raises(WeightsError) as refusal:
        load_model(folder, dtype="float32")
    listed = [line.strip() for line in refusal.value.limit.strip().splitlines()]
    assert str(refusal.value.value).startswith(str(len(listed)))
    assert all(line in str(refusal.value) for line in listed)
    return listed
