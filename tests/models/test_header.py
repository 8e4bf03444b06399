"""A safetensors file tells all that is wrong with it, and one with nothing wrong is what the library reads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxpaged.weights.header import StoredTensor, Unreadable, read_header
from jaxpaged.weights.safetensors import SINGLE, Checkpoint

LONG = "a\n" * 100
F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_of(folder: Path, header: bytes | dict[str, Any], data: int = 0, *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / SINGLE
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data))
    return path


def told(path: Path) -> list[str]:
    """What we say is wrong with it; the library must refuse it too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _, problems = read_header(descriptor, path.name)
    except Unreadable as error:
        problems = [str(error)]
    finally:
        os.close(descriptor)
    return problems


def is_refused_by_the_library(path: Path) -> bool:
    try:
        with safe_open(path, "numpy"):
            return False
    except SafetensorError:
        return True


def at(begin: int, end: int, **others: object) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end], **others}


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        (F32 | {"dtype": "F99"}, 8, "unknown type 'F99'"),
        (F32 | {"dtype": ["F32"]}, 8, "unknown type ['F32']"),
        ({"shape": [2], "data_offsets": [0, 8]}, 8, "it must have dtype, shape and data_offsets"),
        ([], 0, "it must have dtype, shape and data_offsets"),
        (F32 | {"shape": [-1, -2]}, 8, "shape [-1, -2] must be at most 64 whole numbers from 0"),
        (F32 | {"shape": [2.0]}, 8, "shape [2.0] must be at most 64 whole numbers from 0"),
        (F32 | {"shape": [True, 2]}, 8, "shape [True, 2] must be at most 64 whole numbers from 0"),
        (F32 | {"shape": [2**63]}, 8, "shape [9223372036854775808] must be"),
        (F32 | {"shape": [1] * 65}, 4, "shape [1, 1, 1, 1, 1, 1, ...] must be at most 64"),
        (
            F32 | {"shape": [2**62, 2**62, 2]},
            8,
            "takes 170141183460469231731687303715884105728, and",
        ),
        (F32 | {"shape": [3]}, 8, "F32 of shape [3] takes 12, and data_offsets give 8"),
        (F32 | {"data_offsets": [8, 0]}, 8, "data_offsets [8, 0] must be where it begins and where it ends"),
        (F32 | {"data_offsets": [0]}, 8, "data_offsets [0] must be where it begins"),
        (F32 | {"data_offsets": [-8, 0]}, 8, "data_offsets [-8, 0] must be where it begins"),
        ({"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}, 1, "F4 of shape [3] takes 12 bits"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, header: Any, size: int, expected: str) -> None:
    path = file_of(tmp_path, {"a": header}, size)
    (problem,) = told(path)
    assert problem.startswith("'a': ")
    assert expected in problem
    known_to_both = header != F32 | {"shape": [1] * 65}  # numpy's arrays have no more dimensions than 64
    assert is_refused_by_the_library(path) or not known_to_both


@pytest.mark.parametrize(
    ("entries", "size", "expected"),
    [
        ([(0, 8), (4, 12)], 12, ["overlapping: 'a' and 'b' share bytes"]),
        ([(0, 8), (0, 8)], 8, ["overlapping: 'a' and 'b' share bytes"]),
        ([(0, 12), (0, 4), (8, 16)], 16, ["overlapping: 'b' and 'a' share bytes", "overlapping: 'a' and 'c' share"]),
        ([(0, 8), (4, 4)], 8, ["overlapping: 'a' and 'b' share bytes"]),
        ([(0, 4), (6, 8)], 8, ["2 bytes before 'b' belong to no tensor"]),
        ([(2, 8)], 8, ["2 bytes before 'a' belong to no tensor"]),
        ([(0, 8)], 10, ["the last 2 bytes belong to no tensor"]),
        ([], 2, ["the last 2 bytes belong to no tensor"]),
        ([(0, 4), (4, 8)], 7, ["'b' ends 1 bytes after the end"]),
        ([(0, 4), (6, 12), (8, 12)], 9, ["'b' and 'c' share", "'b' ends 3", "'c' ends 3", "2 bytes before 'b'"]),
    ],
)
def test_where_tensors_lie(tmp_path: Path, entries: list[tuple[int, int]], size: int, expected: list[str]) -> None:
    path = file_of(tmp_path, {name: at(*span) for name, span in zip("abc", entries, strict=False)}, size)
    problems = told(path)
    assert len(problems) == len(expected)
    assert all(part in problem for part, problem in zip(expected, problems, strict=True)), problems
    assert is_refused_by_the_library(path)


@pytest.mark.parametrize(
    ("header", "length", "expected"),
    [
        (b"{}", 2**63, "its header has 9223372036854775808 bytes, and the format allows 100000000"),
        (b"{}", 100_000_001, "its header has 100000001 bytes, and the format allows 100000000"),
        (b"{}", 3, "its header has 3 bytes, and after its length there are 2"),
        (b" {}", None, "its header does not begin with '{'"),
        (b"", None, "its header does not begin with '{'"),
        (b'{"a": ', None, "its header is not valid JSON: "),
        (b'{"\xff": {}}', None, "its header is not valid JSON: 'utf-8' codec"),
        (b'{"a":' * 5000, None, "its header is not valid JSON: it is nested too deeply"),
        (b'{"a":' + b"1" * 5000 + b"}", None, "its header is not valid JSON: Exceeds the limit"),
        (b'{"a": [' + b"," * 2**21 + b"]}", None, "its header is not valid JSON: it has 2097154 commas and brackets"),
    ],
)
def test_a_header_that_cannot_be_read(tmp_path: Path, header: bytes, length: int | None, expected: str) -> None:
    path = file_of(tmp_path, header, length=length)
    (problem,) = told(path)
    assert problem.startswith(expected)
    assert is_refused_by_the_library(path) == (header != b" {}")  # which takes it, though the format's README does not


def test_doubled_names_are_all_named(tmp_path: Path) -> None:
    entry = json.dumps(at(0, 4))
    header = f'{{"a": {entry}, "b": {json.dumps(at(4, 8))}, "a": {entry}, "c": {json.dumps(at(8, 12))}, "c": {{}} }}'
    problems = told(file_of(tmp_path, header.encode(), 12))
    assert problems[:2] == ["its header says 'a' more than once", "its header says 'c' more than once"]
    inner = b'{"a": {"dtype": "U8", "dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}'
    assert told(file_of(tmp_path, inner, 4)) == ["its header says 'dtype' more than once"]


def test_long_and_strange_names_are_shown_short(tmp_path: Path) -> None:
    (problem,) = told(file_of(tmp_path, {"a\n" * 1000: {}}))
    assert problem == f"{LONG!r}...: it must have dtype, shape and data_offsets, and nothing else"
    for name in ("\\ud800", '__metadata__": {"a": "\\ud800"}, "a'):
        path = file_of(tmp_path, f'{{"{name}": {json.dumps(F32)}}}'.encode(), 8)
        (problem,) = told(path)
        assert problem.startswith("its header is not valid JSON: 'utf-8' codec can't encode")
        assert is_refused_by_the_library(path)


def test_an_entry_has_nothing_that_nobody_reads(tmp_path: Path) -> None:
    (problem,) = told(file_of(tmp_path, {"a": F32 | {"strides": [1]}}, 8))
    assert problem == "'a': it must have dtype, shape and data_offsets, and nothing else"


def test_metadata_is_an_object_of_strings(tmp_path: Path) -> None:
    assert told(file_of(tmp_path, {"__metadata__": {"a": "b"}, "a": F32}, 8)) == []
    for wrong in ({"a": 1}, 1):
        path = file_of(tmp_path, {"__metadata__": wrong, "a": F32}, 8)
        assert told(path) == ["__metadata__ must be an object of strings"]


def test_empty_tensors_take_no_bytes(tmp_path: Path) -> None:
    tensors = {"a": at(0, 0), "b": at(0, 4), "c": at(4, 4), "d": at(4, 4, shape=[3, 0])}
    path = file_of(tmp_path, tensors, 4)
    assert told(path) == []
    assert not is_refused_by_the_library(path)


def test_what_is_right_is_what_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {f"t{i}": rng.standard_normal((i, 3), np.float32).astype(d) for i, d in enumerate(["f4", "f2"] * 3)}
    save_file(tensors, tmp_path / SINGLE, metadata={"format": "pt"})
    with Checkpoint(tmp_path) as checkpoint:
        assert checkpoint.problems == []
        assert checkpoint.tensors.keys() == tensors.keys()
        for name, values in tensors.items():
            np.testing.assert_array_equal(checkpoint.read(name), values, strict=True)
            assert isinstance(checkpoint.tensors[name], StoredTensor)
        part = np.empty((2, 3), np.float32)
        checkpoint.read_into("t5", part, skip=6)
        np.testing.assert_array_equal(part, tensors["t5"][2:4].astype(np.float32))
