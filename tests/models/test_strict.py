"""What a folder of weights may not be, beside what `test_load.py` tells: links, pipes, other formats, ends of files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from weight_folders import A, B, Q, problems, tensors, write_config, write_index, write_sharded, write_single

from jaxpaged.errors import ModelError, WeightsError
from jaxpaged.weights.load import load_model
from jaxpaged.weights.safetensors import INDEX, SINGLE, Checkpoint

NORM = "model.norm.weight"


def test_the_cache_of_the_hub_is_read_through_its_links(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    write_sharded(snapshot, tensors())
    for i, path in enumerate(list(snapshot.iterdir())):
        path.rename(blobs / str(i))
        path.symlink_to(f"../../blobs/{i}")
    assert load_model(snapshot, dtype="float32").leaves


def test_a_folder_in_the_index_may_not_lead_out_by_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    files = write_sharded(folder, tensors())
    (tmp_path / "elsewhere").mkdir()
    (folder / B).rename(tmp_path / "elsewhere" / B)
    (folder / "inside").mkdir()
    (folder / A).rename(folder / "inside" / A)
    (folder / "out").symlink_to("../elsewhere")
    write_index(folder, {name: f"{'inside' if file == A else 'out'}/{file}" for name, file in files.items()})
    assert problems(folder) == [f"{INDEX} names a file outside the folder: 'out/{B}'"]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    files = write_sharded(tmp_path, tensors())
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "loop.safetensors").symlink_to("loop.safetensors")
    named = ("pipe.safetensors", "folder.safetensors", "loop.safetensors", "a\0b.safetensors", "a" * 300, "pickle.bin")
    write_index(tmp_path, files | dict(zip("abcdef", named, strict=True)))
    found = problems(tmp_path)
    assert "'pipe.safetensors' is not a file" in found
    assert "'folder.safetensors' is not a file" in found
    assert any("'loop.safetensors'" in line for line in found)
    assert f"{INDEX} names a file that is not there: 'a\\x00b.safetensors'" in found
    assert any(line.startswith(f"{INDEX} names a file that cannot be: '{'a' * 200}'...") for line in found)
    assert f"{INDEX} names a pickle, and loading one can run any code: 'pickle.bin'" in found
    assert len(found) == len(named)


def test_names_that_differ_in_case_are_told(tmp_path: Path) -> None:
    values = tensors()
    values["Model.Norm.weight"] = values.pop(NORM)
    files = write_sharded(tmp_path, values)
    write_index(tmp_path, files | {Q: A.upper()})
    assert problems(tmp_path) == [
        f"{INDEX} names a file that is not there: '{A.upper()}'; there is '{A}'",
        f"unknown: 'Model.Norm.weight' in '{B}', not '{NORM}' in this case",
        f"missing: '{NORM}' [8]",
    ]


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["model.pt"], "only there as pickles ('model.pt')"),
        (["model.pth", "a.ckpt", "b.bin", "c.BIN"], "pickles ('a.ckpt', 'b.bin', 'c.BIN' and 1 more)"),
        (["model-q4.gguf"], "in a form that is not read ('model-q4.gguf')"),
        (["weights.npz"], "in a form that is not read ('weights.npz')"),
        (["consolidated.safetensors"], f"neither {SINGLE} nor {INDEX}, but other safetensors: 'consolidated.safet"),
    ],
)
def test_other_formats_are_refused_with_the_reason(tmp_path: Path, files: list[str], named: str) -> None:
    write_config(tmp_path)
    for file in files:
        (tmp_path / file).touch()
    with pytest.raises(ModelError) as refusal:
        load_model(tmp_path, dtype="float32")
    assert named in str(refusal.value)
    assert refusal.value.fix


def test_of_many_problems_the_first_are_spelled_out(tmp_path: Path) -> None:
    values = tensors() | {f"stranger {i}": np.ones(1, np.float32) for i in range(70)}
    write_single(tmp_path, values)
    with pytest.raises(WeightsError) as refusal:
        load_model(tmp_path, dtype="float32")
    lines = refusal.value.limit.strip().splitlines()
    assert refusal.value.value == "70 problems"
    assert len(lines) == 51
    assert lines[-1].strip() == "and 20 more"


def test_all_that_is_wrong_in_a_damaged_file_is_told_with_the_rest(tmp_path: Path) -> None:
    values = tensors()
    values[NORM] = np.ones(9, np.float32)
    path = write_single(tmp_path, values) / SINGLE
    path.write_bytes(path.read_bytes()[:-1])
    damaged, wrong = problems(tmp_path)
    assert damaged.endswith("ends 1 bytes after the end")
    assert wrong == f"wrong shape: '{NORM}' is [9], the config makes it [8]"


def test_a_file_that_ends_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    write_single(tmp_path, tensors())
    with Checkpoint(tmp_path) as checkpoint:
        os.truncate(tmp_path / SINGLE, checkpoint.tensors[NORM].start + 4)
        with pytest.raises(WeightsError, match=r"model\.safetensors': it has become shorter while it was read"):
            checkpoint.read(NORM)
    assert not checkpoint.problems


def test_layers_that_nothing_fills_are_not_built(tmp_path: Path) -> None:
    write_single(tmp_path, tensors(), num_hidden_layers=1000)
    assert problems(tmp_path) == ["12 tensors cannot be the 1000 layers that the config has"]
    (tmp_path / SINGLE).write_bytes(b"")
    (line,) = problems(tmp_path)
    assert line.startswith(f"damaged file '{SINGLE}': it has 0 bytes")


def test_an_index_may_not_name_files_without_end(tmp_path: Path) -> None:
    write_config(tmp_path)
    write_index(tmp_path, {str(i): f"{i}.safetensors" for i in range(513)})
    with pytest.raises(ModelError, match="it names 513 files, and at most 512 are opened"):
        load_model(tmp_path, dtype="float32")


def test_a_config_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    write_single(tmp_path, tensors())
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ModelError, match=r"config\.json.*it is not a file"):
        load_model(tmp_path, dtype="float32")
