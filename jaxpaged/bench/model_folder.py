"""A model folder in Hugging Face layout with random weights, for engines that read nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from jaxpaged.bench.shapes import Shape, shape_config
from jaxpaged.errors import ConfigError
from jaxpaged.models.families import FAMILIES
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.weights.mapping import expected_tensors
from jaxpaged.weights.random import random_model
from jaxpaged.weights.safetensors import SINGLE

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
_TOKENS = ("bos_token_id", "eos_token_id")


def write_model(
    shape: str, folder: Path, *, seed: int = 0, dtype: str = "float32", progress: bool = False
) -> dict[str, Any]:
    """Write config, weights and the bundled tokenizer into a new folder; returns what was made.

    dtype: "float32" or "bfloat16", of the matrices. The tokenizer has fewer tokens than a large model's table; the
    rest of the table has no text, as in many published checkpoints. Raises ConfigError for an unknown shape, a folder
    that holds something, and a vocabulary smaller than the tokenizer's.
    """
    config = _config(shape_config(shape), shape=shape, dtype=dtype)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(name="--output", value=str(folder), limit="there is something already", fix="Name a new one")
    model = random_model(config, seed=seed, dtype=dtype, progress=progress)
    specs = model.graphdef.specs
    leaves = [np.asarray(leaf) for leaf in model.leaves]
    tensors: dict[str, NDArray[Any]] = {}
    rules = FAMILIES[model.config.architecture].rules(model.config)
    for name, target in expected_tensors(specs, rules).items():
        values = target.view(leaves[target.parameter]).view(specs[target.parameter].dtype)
        tensors[name] = np.ascontiguousarray(values).reshape(target.shape)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _TOKENIZER_FILES:
        shutil.copyfile(Path(TINY_MODEL) / name, folder / name)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return {
        "model": str(folder),
        "shape": shape,
        "seed": seed,
        "dtype": dtype,
        "tensors": len(tensors),
        "parameters": sum(leaf.size for leaf in leaves),
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
    }


def _config(given: Shape, *, shape: str, dtype: str) -> Mapping[str, object]:
    """The shape with the bundled tokenizer's special tokens. Raises ConfigError where that has more tokens."""
    bundled = json.loads((Path(TINY_MODEL) / "config.json").read_text(encoding="utf-8"))
    vocab = given.get("vocab_size")
    if isinstance(vocab, int) and vocab < bundled["vocab_size"]:
        raise ConfigError(
            name="--shape",
            value=shape,
            limit=f"its vocabulary of {vocab} is smaller than the bundled tokenizer's {bundled['vocab_size']}",
            fix="Use a larger shape",
        )
    return {**given, "torch_dtype": dtype, **{name: bundled[name] for name in _TOKENS}, "pad_token_id": 0}
