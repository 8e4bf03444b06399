"""Loading is strict: everything wrong with a folder is told at once, and nothing is half-loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from weight_folders import (
    GATE,
    UP,
    A,
    B,
    K,
    Q,
    V,
    problems,
    tensors,
    write_config,
    write_index,
    write_sharded,
    write_single,
)

from jaxpaged.errors import ModelError, UnsupportedModelError
from jaxpaged.weights.load import LoadedModel, load_model, read_model_config
from jaxpaged.weights.safetensors import INDEX, SINGLE


def leaf(model: LoadedModel, path: str) -> np.ndarray:
    return next(np.asarray(a) for s, a in zip(model.graphdef.specs, model.leaves, strict=True) if s.path == path)


def test_fused_parameters_hold_their_parts(tmp_path: Path) -> None:
    values = tensors()
    model = load_model(write_single(tmp_path, values), dtype="float32")
    qkv = leaf(model, "layers.0.self_attn.qkv_proj.weight")  # [K, G + 2, D, E]
    assert qkv.shape == (2, 4, 2, 8)
    np.testing.assert_array_equal(qkv[1, 0], values[Q].reshape(4, 2, 8)[2])  # kv head 1 begins with query head 2
    np.testing.assert_array_equal(qkv[1, 2], values[K].reshape(2, 2, 8)[1])
    np.testing.assert_array_equal(qkv[0, 3], values[V].reshape(2, 2, 8)[0])
    gate_up = leaf(model, "layers.0.mlp.gate_up_proj.weight")  # [2, F, E]
    np.testing.assert_array_equal(gate_up, np.stack([values[GATE], values[UP]]))


def test_shards_and_one_file_are_the_same_model(tmp_path: Path) -> None:
    values = tensors()
    whole = load_model(write_single(tmp_path / "whole", values), dtype="float32")
    write_sharded(tmp_path / "shards", values)
    shards = load_model(str(tmp_path / "shards"), dtype="float32")
    assert all(np.array_equal(a, b) for a, b in zip(whole.leaves, shards.leaves, strict=True))


@pytest.mark.parametrize("stored", [np.float32, jnp.bfloat16, np.float16])
@pytest.mark.parametrize("held", ["float32", "bfloat16"])
def test_types_are_rounded_once(tmp_path: Path, stored: Any, held: str) -> None:
    values = {name: value.astype(stored) for name, value in tensors().items()}
    model = load_model(write_single(tmp_path, values), dtype=held)
    head = leaf(model, "lm_head.weight")
    assert head.dtype == held
    np.testing.assert_array_equal(head, values["lm_head.weight"].astype(held))
    assert leaf(model, "norm.weight").dtype == np.float32  # norms stay exact


def test_a_tied_head_stored_anyway_and_rotary_buffers_are_ignored(tmp_path: Path) -> None:
    values = tensors() | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(1, np.float32)}
    model = load_model(write_single(tmp_path, values, tie_word_embeddings=True), dtype="float32")
    assert not any(spec.path.startswith("lm_head") for spec in model.graphdef.specs)


def test_all_problems_of_one_file_are_told_at_once(tmp_path: Path) -> None:
    values = tensors()
    del values[UP]
    values["lm_head.weight"] = values["lm_head.weight"].T.copy()
    values[Q] = values[Q].astype(np.float64)
    values["model.layers.1.input_layernorm.weight"] = np.ones(8, np.float32)
    assert sorted(problems(write_single(tmp_path, values))) == sorted(
        [
            f"unknown: 'model.layers.1.input_layernorm.weight' in '{SINGLE}'",
            "wrong shape: 'lm_head.weight' is [8, 11], the config makes it [11, 8]",
            f"unsupported type: '{Q}' is F64, not one of F32, BF16, F16",
            f"missing: '{UP}' [6, 8]",
        ]
    )


def test_all_problems_of_shards_are_told_at_once(tmp_path: Path) -> None:
    values = tensors()
    files = write_sharded(tmp_path, values)
    second = load_file(tmp_path / B)
    save_file(second | {Q: values[Q], "stranger": np.ones(1, np.float32)}, tmp_path / B)
    del files[GATE]
    write_index(tmp_path, files | {"ghost": A, "far": "../elsewhere.safetensors", "gone": "gone.safetensors"})
    found = problems(tmp_path)
    for part in (
        f"duplicate: '{Q}' is in '{A}' and in '{B}'",
        f"unknown: 'stranger' in '{B}'",
        f"{INDEX} says that 'ghost' is in '{A}', but it is nowhere",
        f"{INDEX} names a file outside the folder: '../elsewhere.safetensors'",
        f"{INDEX} names a file that is not there: 'gone.safetensors'",
        f"not in {INDEX}: '{GATE}', though '{B}' holds it",
    ):
        assert part in found
    assert len(found) == 6


@pytest.mark.parametrize("file", ["/etc/passwd", "..", "a/../../b.safetensors", "C:\\b.safetensors", ""])
def test_an_index_cannot_lead_out_of_the_folder(tmp_path: Path, file: str) -> None:
    files = write_sharded(tmp_path, tensors())
    write_index(tmp_path, files | {Q: file})
    assert any("outside the folder" in line for line in problems(tmp_path))


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-3], lambda data: data[:5], lambda data: b"", lambda data: b"\xff" * len(data)]
)
def test_a_damaged_file_is_named_once(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_single(tmp_path, tensors()) / SINGLE
    path.write_bytes(damage(path.read_bytes()))
    (line,) = problems(tmp_path)
    assert line.startswith(f"damaged file '{SINGLE}': ")


def test_a_damaged_shard_does_not_hide_the_other_problems(tmp_path: Path) -> None:
    values = tensors()
    values["model.norm.weight"] = np.ones(9, np.float32)
    write_sharded(tmp_path, values)
    (tmp_path / A).write_bytes((tmp_path / A).read_bytes()[:-1])
    damaged, wrong = problems(tmp_path)
    assert damaged.startswith(f"damaged file '{A}'")
    assert wrong == "wrong shape: 'model.norm.weight' is [9], the config makes it [8]"


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda folder: (folder / "config.json").unlink(), "file is 'config.json': it is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "file is 'config.json': it is not valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "file is 'config.json': it is not valid"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "file is 'config.json': it is not valid"),
        (lambda folder: (folder / "config.json").write_text('{"a": 1, "a": 2}'), "the key 'a' is there twice"),
        (lambda folder: (folder / "config.json").write_text("[]"), "file is 'config.json': it holds a list"),
        (lambda folder: (folder / SINGLE).unlink(), f"it holds neither {SINGLE} nor {INDEX}"),
        (
            lambda folder: (folder / SINGLE).rename(folder / "pytorch_model.bin"),
            "('pytorch_model.bin'), and loading one",
        ),
        (lambda folder: (folder / SINGLE).rename(folder / INDEX), f"'{INDEX}': it is not valid JSON"),
    ],
)
def test_a_folder_without_what_it_takes_is_refused(tmp_path: Path, spoil: Callable[[Path], None], named: str) -> None:
    folder = write_single(tmp_path, tensors())
    spoil(folder)
    with pytest.raises(ModelError) as refusal:
        load_model(folder, dtype="float32")
    assert named in str(refusal.value)
    assert refusal.value.fix


@pytest.mark.parametrize("files", [None, {}, [], {"a": 1}])
def test_an_index_without_a_map_is_refused(tmp_path: Path, files: object) -> None:
    write_sharded(tmp_path, tensors())
    write_index(tmp_path, files)
    with pytest.raises(ModelError, match="weight_map"):
        load_model(tmp_path, dtype="float32")


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model is '.*absent': there is no such folder\. Give the folder"):
        read_model_config(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="it is a file, not a folder"):
        read_model_config(tmp_path / "file")


def test_other_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="dtype is 'float16': weights are held as float32 or bfloat16"):
        load_model(write_single(tmp_path, tensors()), dtype="float16")


def test_a_config_that_is_refused_comes_before_its_weights(tmp_path: Path) -> None:
    write_config(tmp_path, quantization_config={"quant_method": "gptq"})
    with pytest.raises(UnsupportedModelError, match="quantization_config"):
        load_model(tmp_path, dtype="float32")
