"""What an engine's fingerprint tells apart, without reading all weights."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxpaged.config import ResolvedConfig
from jaxpaged.fingerprint import fingerprint_of_engine, weights_identity

RESOLVED = ResolvedConfig(
    model=Path("unused"),
    tokenizer=Path("unused"),
    dtype="float32",
    quantization=None,
    kv_cache_dtype="float32",
    max_model_len=64,
    max_num_seqs=4,
    max_num_batched_tokens=64,
    block_size=16,
    num_blocks=10,
    enable_prefix_caching=True,
    attention_backend="xla",
    platform="cpu",
    seed=0,
    compile_cache=None,
    warmup=True,
    early_start=False,
    bundle=None,
    async_scheduling=True,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    place.mkdir()
    save_file({"a": np.arange(4096, dtype=np.float32)}, place / "model.safetensors")
    return place


def test_a_copy_has_the_same_identity(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    assert weights_identity(copy) == weights_identity(folder)


@pytest.mark.parametrize("change", ["values", "name of a tensor", "shape", "file name", "another file"])
def test_other_weights_have_another_identity(folder: Path, change: str) -> None:
    before, path = weights_identity(folder), folder / "model.safetensors"
    values = np.arange(4096, dtype=np.float32)
    if change == "values":
        save_file({"a": values + 1}, path)
    elif change == "name of a tensor":
        save_file({"b": values}, path)
    elif change == "shape":
        save_file({"a": values.reshape(64, 64)}, path)
    elif change == "file name":
        path.rename(folder / "other.safetensors")
    else:
        save_file({"c": values}, folder / "more.safetensors")
    assert weights_identity(folder) != before


def test_a_large_file_is_not_read_whole(folder: Path) -> None:
    with (folder / "large.safetensors").open("wb") as file:
        file.write((2).to_bytes(8, "little") + b"{}")
        file.truncate(2**36)  # 64 GiB of nothing, which take no place
    began = time.monotonic()
    assert len(weights_identity(folder)) == 64
    assert time.monotonic() - began < 1.0


def test_what_changes_outputs_changes_the_fingerprint(folder: Path) -> None:
    config = replace(RESOLVED, model=folder)
    found = fingerprint_of_engine(config, {"code": "1"})
    assert len(found) == 16
    assert int(found, 16) >= 0
    assert fingerprint_of_engine(replace(config, num_blocks=99), {"code": "1"}) == found
    assert fingerprint_of_engine(config, {"code": "2"}) != found
    assert fingerprint_of_engine(replace(config, attention_backend="native"), {"code": "1"}) != found
