"""The bundled model with one token that makes whatever holds it not finite; other prompts have their usual answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ml_dtypes import bfloat16  # which numpy knows the type by
from safetensors.numpy import load_file, save_file

from jaxpaged.tiny import TINY_MODEL

POISON = 4000
"""The token. Its embedding is NaN, its row of the head is not: others may draw it."""


def make_poisoned_model(folder: Path) -> None:
    """Write it as a model folder."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(TINY_MODEL / name, folder)
    config = json.loads((TINY_MODEL / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(TINY_MODEL / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = embedding.copy()
    embedding[POISON] = bfloat16("nan")
    save_file(weights, folder / "model.safetensors")
