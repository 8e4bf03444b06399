"""The bundled model made deeper without a change to what it says: `python tests/deepened_model.py FOLDER LAYERS`.

The layers that are added have the last one's weights, but for their two outputs, which are zero: they add nothing to
the residual stream and cost what any layer costs. So real text can be served at the cost of a larger model, as where
what a draft model saves is measured: it is as good as for the bundled model, and a larger one's step pays for more.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import ml_dtypes  # noqa: F401  (numpy knows bfloat16 by it)
import numpy as np
from safetensors.numpy import load_file, save_file

from jaxpaged.tiny import TINY_MODEL

_OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def deepen(folder: Path, layers: int) -> None:
    """Write the model with so many layers in all."""
    config = json.loads((TINY_MODEL / "config.json").read_text())
    last = config["num_hidden_layers"] - 1
    tensors = load_file(TINY_MODEL / "model.safetensors")
    prefix = f"model.layers.{last}."
    of_last = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    for layer in range(last + 1, layers):
        for name, value in of_last.items():
            tensors[f"model.layers.{layer}.{name}"] = np.zeros_like(value) if name in _OUTPUTS else value.copy()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}, indent=2))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(TINY_MODEL / name, folder)


if __name__ == "__main__":
    deepen(Path(sys.argv[1]), int(sys.argv[2]))
