"""While a model is loaded, the host holds little more than the model: no second copy of the largest parameter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weight_folders import CONFIG, write_config

from jaxpaged.models.decoder import build
from jaxpaged.models.families import FAMILIES, read_config
from jaxpaged.weights import leaf as leaf_module
from jaxpaged.weights.load import load_model
from jaxpaged.weights.mapping import expected_tensors
from jaxpaged.weights.safetensors import DTYPES, SINGLE

MOST = 1.15
"""Of what the leaves hold, or of the checkpoint where that is larger."""
FORMS = [
    pytest.param("BF16", "bfloat16", False, None, id="bfloat16"),
    pytest.param("F32", "float32", False, None, id="float32"),
    pytest.param("BF16", "float32", False, None, id="widened"),
    pytest.param("BF16", "bfloat16", True, None, id="packed"),
    pytest.param("F32", "float32", True, None, id="packed-float32"),
    pytest.param("BF16", "bfloat16", False, "int8", id="int8"),
    pytest.param("BF16", "bfloat16", True, "int8", id="packed-int8"),
]
LARGE = {
    "vocab_size": 128_256,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
"""Untied, so that two parameters are a third of the model each."""


def write_random(folder: Path, stored: str, **changes: object) -> int:
    """A model folder whose weights are one random MiB again and again; returns the bytes of all tensors."""
    write_config(folder, **changes)
    config = read_config(CONFIG | changes)
    targets = expected_tensors(build(config, dtype="float32").specs, FAMILIES[config.architecture].rules(config))
    header: dict[str, Any] = {}
    end = 0
    for name, target in targets.items():
        begin, end = end, end + int(np.prod(target.shape)) * DTYPES[stored].itemsize
        header[name] = {"dtype": stored, "shape": target.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    block = np.random.default_rng(0).standard_normal(2**18, np.float32).astype(DTYPES[stored]).tobytes()
    with (folder / SINGLE).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for begin in range(0, end, len(block)):
            file.write(block[: end - begin])
    return end


@pytest.mark.parametrize(("stored", "dtype", "packed", "quantization"), FORMS)
def test_the_host_allocates_no_second_copy(
    tmp_path: Path, stored: str, dtype: str, packed: bool, quantization: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 256, "head_dim": 64}
    checkpoint = write_random(tmp_path, stored, **sizes)
    monkeypatch.setattr(leaf_module, "PIECE_BYTES", 2**17)
    load_model(tmp_path, dtype=dtype, packed=packed, quantization=quantization)  # what programs take, once
    tracemalloc.start()
    model = load_model(tmp_path, dtype=dtype, packed=packed, quantization=quantization)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held = sum(leaf.nbytes for leaf in model.leaves)
    assert held > 4 * 2**20
    assert peak <= MOST * max(held, checkpoint) + 2**20  # the graph's own objects


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("stored", "dtype", "packed", "quantization"), FORMS)
def test_a_process_that_loads_grows_by_the_weights(
    tmp_path: Path, stored: str, dtype: str, packed: bool, quantization: str | None
) -> None:
    checkpoint = write_random(tmp_path, stored, num_hidden_layers=12 if stored == "BF16" else 4, **LARGE)
    assert 300e6 < checkpoint < 700e6
    child = [sys.executable, str(Path(__file__).parents[1] / "loading_child.py")]
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [*child, str(tmp_path), dtype, str(int(packed)), quantization or ""],
        env=os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'server'}"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    figures = json.loads(ran.stdout)
    print(f"{figures['peak'] / max(figures['held'], checkpoint):.3f}", ran.stdout)
    assert figures["peak"] <= MOST * max(figures["held"], checkpoint)
