"""A leaf is the same whether its values come at once or by pieces, in whatever order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxpaged.models.decoder import ParamSpec
from jaxpaged.weights import leaf as leaf_module
from jaxpaged.weights.leaf import Leaf
from jaxpaged.weights.mapping import Target
from jaxpaged.weights.read import read_leaves
from jaxpaged.weights.rows import Run, pieces, row_runs
from jaxpaged.weights.safetensors import SINGLE, Checkpoint
from jaxpaged.weights.store import hold
from pallas_kernels.int8 import quantise
from pallas_kernels.packed import PackedWeight
from pallas_kernels.packed_f32 import PackedF32Weight
from pallas_kernels.packed_int8 import PackedInt8Weight

FORMS = {
    "float32": ("float32", "float32", False),
    "bfloat16": ("bfloat16", "bfloat16", False),
    "bits": ("bfloat16", "uint16", False),
    "packed": ("bfloat16", "uint32", True),
    "packed_f32": ("float32", "float32", True),
    "int8": ("int8", "int8", False),
    "packed_int8": ("int8", "uint32", True),
}


def spec_of(form: str, shape: tuple[int, ...] = (3, 64, 96)) -> ParamSpec:
    dtype, storage, packed = FORMS[form]
    return ParamSpec(
        path="p",
        shape=shape,
        dtype=np.dtype(dtype),
        storage=np.dtype(storage),
        axes=(None,) * len(shape),
        init="normal",
        packed=packed,
    )


def scale_of(spec: ParamSpec) -> ParamSpec:
    scale, shape = np.dtype(np.float32), spec.shape[:-1]
    axes = (None,) * len(shape)
    return replace(spec, path="p_scale", shape=shape, dtype=scale, storage=scale, axes=axes, init="scale", packed=False)


def rows_held(spec: ParamSpec, arrays: tuple[jax.Array, ...]) -> np.ndarray:
    """What the leaves stand for, f32[B, A]."""
    held, ins = arrays[0], spec.shape[-1]
    scales = arrays[1].reshape(-1) if spec.quantised else jnp.ones(1)
    which = jnp.arange(np.prod(spec.shape[:-1]))
    if not spec.packed:
        plain = np.asarray(held).view(spec.dtype).reshape(-1, ins).astype(np.float32)
        return plain * np.asarray(scales)[:, None]
    if spec.quantised:
        return np.asarray(PackedInt8Weight(tiles=held, scales=scales, ins=ins).rows(which))
    form: Any = PackedF32Weight(panels=held) if spec.dtype == np.float32 else PackedWeight(tiles=held)
    return np.asarray(form.rows(which))


def drawn(spec: ParamSpec) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((np.prod(spec.shape[:-1]), spec.shape[-1]), np.float32)
    return values.astype(spec.dtype if not spec.quantised else np.float32)


@pytest.mark.parametrize("form", FORMS)
def test_pieces_in_any_order_are_the_whole(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(form)
    values = drawn(spec)
    whole = hold(spec, values)
    assert [array.shape[:-1] for array in whole[1:]] == [(3,)] * spec.quantised
    monkeypatch.setattr(leaf_module, "PIECE_BYTES", 64 * 96 * 2)
    leaf = Leaf(spec)
    assert leaf.step in (32, 64)
    for first in reversed(range(0, leaf.rows, leaf.step)):
        room = leaf.room(first, min(leaf.step, leaf.rows - first))
        room[...] = values[first : first + leaf.step]
        leaf.put(first, room)
    arrays = leaf.arrays()
    assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(arrays, whole, strict=True))
    expected = values.astype(np.float32)
    if spec.quantised:
        int8, scales = map(np.asarray, quantise(jnp.asarray(values)))
        expected = int8.astype(np.float32) * scales[:, None]
    np.testing.assert_array_equal(rows_held(spec, arrays), expected)


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
def test_values_are_quantised_in_the_type_that_they_come_in(stored: str) -> None:
    spec = spec_of("int8")
    values = drawn(spec).astype(stored)
    leaf = Leaf(spec, dtype=values.dtype)
    leaf.room(0, leaf.rows)[...] = values
    room = leaf.room(0, leaf.rows)
    assert room.dtype == stored
    room[...] = values
    leaf.put(0, room)
    for got, expected in zip(leaf.arrays(), hold(spec, values.astype(np.float32)), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_on_a_cpu_nothing_is_copied_at_the_end() -> None:
    leaf = Leaf(spec_of("bfloat16"))
    room = leaf.room(0, leaf.rows)
    assert leaf.arrays()[0].unsafe_buffer_pointer() == room.ctypes.data


def part(place: str, shape: tuple[int, ...], *, expert: int | None = None) -> Target:
    return Target(parameter=0, place=place, expert=expert, shape=shape)


def test_runs_of_a_fused_parameter() -> None:
    parts = {"q": part("q", (8, 5)), "k": part("k", (4, 5)), "v": part("v", (4, 5))}
    runs = row_runs((2, 4, 2, 5), parts)  # [K, G + 2, D, E]
    assert runs is not None
    assert [(run.first, run.count, run.tensor, run.source) for run in runs] == [
        *((0, 4, "q", 0), (4, 2, "k", 0), (6, 2, "v", 0)),
        *((8, 4, "q", 4), (12, 2, "k", 2), (14, 2, "v", 2)),
    ]
    cut = [[(run.first, run.count, run.tensor, run.source) for run in piece] for piece in pieces(runs, 5)]
    assert cut == [
        [(0, 4, "q", 0), (4, 1, "k", 0)],
        [(5, 1, "k", 1), (6, 2, "v", 0), (8, 2, "q", 4)],
        [(10, 2, "q", 6), (12, 2, "k", 2), (14, 1, "v", 2)],
        [(15, 1, "v", 3)],
    ]


def test_a_vector_is_one_row() -> None:
    assert row_runs((7,), {"norm": part("whole", (7,))}) == [Run(first=0, count=1, tensor="norm", source=0)]


def test_an_experts_part() -> None:
    places = [("up", 1), ("gate", 0), ("up", 0), ("gate", 1)]
    runs = row_runs((2, 2, 3, 5), {f"{x}.{p}": part(p, (3, 5), expert=x) for p, x in places})  # [X, 2, F, E]
    assert runs is not None
    assert [(run.first, run.count, run.tensor) for run in runs] == [
        *((0, 3, "0.gate"), (3, 3, "0.up"), (6, 3, "1.gate"), (9, 3, "1.up")),
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("values", [None, lambda tensor: tensor * tensor.dtype.type(2)])
def test_a_tensor_that_is_not_rows_as_they_are_is_read_whole(tmp_path: Path, form: str, values: Any) -> None:
    spec = spec_of(form, (64, 96))
    turned = Target(parameter=0, place="whole", expert=None, shape=(96, 64), transposed=True, values=values)
    assert row_runs(spec.shape, {"w": turned}) is None
    rows = drawn(spec)
    save_file({"w": np.ascontiguousarray(rows.T)}, tmp_path / SINGLE)
    with Checkpoint(tmp_path) as checkpoint:
        leaves = read_leaves(
            (spec, *([scale_of(spec)] if spec.quantised else [])), {"w": turned}, checkpoint, progress=False
        )
    expected = hold(spec, rows if values is None else values(rows))
    assert all(np.array_equal(a, b) for a, b in zip(leaves, expected, strict=True))


PARTS = {
    "qkv": ((2, 4, 2, 5), {"q": ("q", (8, 5), None), "k": ("k", (4, 5), None), "v": ("v", (4, 5), None)}),
    "fused": ((2, 4, 2, 5), {"qkv": ("q, k, v", (16, 5), None)}),
    "bias": ((2, 4, 2), {"q": ("q", (8,), None), "k": ("k", (4,), None), "v": ("v", (4,), None)}),
    "gated": ((2, 6, 5), {"gate": ("gate", (6, 5), None), "up": ("up", (6, 5), None)}),
    "gated bias": ((2, 6), {"gate": ("gate", (6,), None), "up": ("up", (6,), None)}),
    "experts": ((2, 2, 3, 5), {f"{x}{p}": (p, (3, 5), x) for x in range(2) for p in ("gate", "up")}),
    "in turns": ((2, 2, 3, 5), {"both": ("experts' gate and up in turns", (2, 6, 5), None)}),
    "bias in turns": ((2, 2, 3), {"both": ("experts' gate and up in turns", (2, 6), None)}),
    "norm": ((7,), {"norm": ("whole", (7,), None)}),
}


@pytest.mark.parametrize("case", PARTS)
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_pieces_fill_what_the_tensors_fill(
    tmp_path: Path, case: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, named = PARTS[case]
    parts = {name: part(place, size, expert=expert) for name, (place, size, expert) in named.items()}
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(target.shape, np.float32) for name, target in parts.items()}
    expected = np.full(shape, np.nan, np.float32)
    for name, target in parts.items():
        target.fill(expected, tensors[name])
    assert np.isfinite(expected).all()
    save_file(tensors, tmp_path / SINGLE)
    monkeypatch.setattr(leaf_module, "PIECE_BYTES", rows * shape[-1] * 4)
    with Checkpoint(tmp_path) as checkpoint:
        (leaf,) = read_leaves((spec_of("float32", shape),), parts, checkpoint, progress=False)
    np.testing.assert_array_equal(leaf, expected)
