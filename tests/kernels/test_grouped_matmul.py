"""Grouped products against numpy, whatever the sizes of the groups."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.backend import Backend
from pallas_kernels.grouped_matmul import grouped_matmul
from pallas_kernels.grouped_matmul.triton import multiply_tuned, row_tiles
from pallas_kernels.grouped_matmul.tuning import Tuning, tuning_for
from pallas_kernels.grouped_matmul.xla import tile_rows
from pallas_kernels.int8 import Int8Weight, quantise
from pallas_kernels.target import Target, assume_target
from pallas_kernels.tuning import Entry, Table

WIDTH, HEIGHT = 24, 40


def weights(num_experts: int, dtype: str) -> np.ndarray:
    w = np.random.default_rng(1).normal(size=(num_experts, HEIGHT, WIDTH)).astype(np.float32)
    if dtype == "uint16":
        return w.astype(jnp.bfloat16).view(np.uint16)
    return w.astype(jnp.dtype(dtype))


def oracle(x: np.ndarray, w: np.ndarray, sizes: list[int]) -> np.ndarray:
    w = w.view(jnp.bfloat16) if w.dtype == np.uint16 else w
    x = x.astype(w.dtype).astype(np.float64)
    out = np.zeros((len(x), w.shape[1]))
    start = 0
    for expert, size in enumerate(sizes):
        out[start : start + size] = x[start : start + size] @ w[expert].astype(np.float64).T
        start += size
    return out


@pytest.mark.parametrize("backend", list(Backend))
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "uint16"])
def test_equals_one_product_per_expert(backend: Backend, dtype: str) -> None:
    multiply = jax.jit(partial(grouped_matmul, backend=backend))
    w = weights(5, dtype)
    x = np.random.default_rng(0).normal(size=(70, WIDTH)).astype(np.float32)
    for sizes in ([14] * 5, [0, 70, 0, 0, 0], [1, 0, 33, 0, 16], [0, 0, 0, 0, 70], [7, 8, 9, 17, 29], [0] * 5):
        x_now = x.copy()
        x_now[sum(sizes) :] = np.nan  # padding rows may hold anything
        got = np.asarray(multiply(x_now, w, np.array(sizes, np.int32)))
        assert got.dtype == np.float32
        want = oracle(x, w, sizes)
        assert np.abs(got - want).max() < 1e-5 * max(np.abs(want).max(), 1), sizes
        assert (got[sum(sizes) :] == 0).all(), sizes


@pytest.mark.parametrize("backend", list(Backend))
def test_int8_experts(backend: Backend) -> None:
    values, scales = quantise(jnp.asarray(weights(5, "float32")))
    held = Int8Weight(values=values, scales=scales, dtype="bfloat16")
    wide = np.asarray(values, np.float32) * np.asarray(scales)[:, :, None]
    x = np.random.default_rng(0).normal(size=(70, WIDTH)).astype(np.float32)
    if backend == Backend.TRITON:  # weights alone are int8
        of_x = x.astype(jnp.bfloat16).astype(np.float32)
    else:
        x_values, x_scales = quantise(jnp.asarray(x))
        of_x = np.asarray(x_values, np.float32) * np.asarray(x_scales)[:, None]
    multiply = jax.jit(partial(grouped_matmul, backend=backend))
    for sizes in ([14] * 5, [0, 70, 0, 0, 0], [1, 0, 33, 0, 16], [7, 8, 9, 17, 29], [0] * 5):
        x_now = x.copy()
        x_now[sum(sizes) :] = np.nan
        got, want = np.asarray(multiply(x_now, held, np.array(sizes, np.int32))), oracle(of_x, wide, sizes)
        assert np.abs(got - want).max() < 1e-5 * max(np.abs(want).max(), 1), sizes
        assert (got[sum(sizes) :] == 0).all(), sizes


def test_int8_experts_are_widened_by_xla_on_a_gpu() -> None:
    values, scales = quantise(jnp.asarray(weights(3, "float32")))
    x = np.random.default_rng(0).normal(size=(20, WIDTH)).astype(np.float32)
    with assume_target(Target(platform="rocm", kind="gfx942")):
        held = Int8Weight(values=values, scales=scales, dtype="bfloat16")
        got = grouped_matmul(jnp.asarray(x), held, jnp.asarray([5, 0, 12], jnp.int32), backend=Backend.XLA)
    wide = np.asarray(values, np.float32) * np.asarray(scales)[:, :, None]
    want = oracle(x.astype(jnp.bfloat16).astype(np.float32), wide, [5, 0, 12])
    np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_fewer_rows_than_experts() -> None:
    w = weights(16, "float32")
    x = np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)
    sizes = [0] * 16
    sizes[2], sizes[15] = 1, 2
    got = np.asarray(jax.jit(partial(grouped_matmul, backend=Backend.XLA))(x, w, np.array(sizes, np.int32)))
    np.testing.assert_allclose(got, oracle(x, w, sizes), atol=1e-5)


def test_bits_of_a_row_do_not_depend_on_the_other_groups() -> None:
    multiply = jax.jit(partial(grouped_matmul, backend=Backend.XLA))
    w = weights(4, "float32")
    x = np.random.default_rng(0).normal(size=(64, WIDTH)).astype(np.float32)
    alone = np.asarray(multiply(x, w, np.array([0, 0, 5, 0], np.int32)))[:5]
    moved = np.concatenate([x[20:50], x[:5], x[50:60], x[:19]])
    among = np.asarray(multiply(moved, w, np.array([13, 17, 5, 29], np.int32)))[30:35]
    assert (alone.view(np.uint32) == among.view(np.uint32)).all()


def cut(**changes: int) -> Tuning:
    tiles = {"row_tile": 16, "out_tile": 32, "in_tile": 16, "band": 2, "num_warps": 4, "num_stages": 1}
    return Tuning(**{**tiles, **changes})


@pytest.mark.parametrize("experts", [4, 8, 64])
@pytest.mark.parametrize("rows", [2, 37, 96])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_triton_equals_one_product_per_expert_in_float32(experts: int, rows: int, dtype: str) -> None:
    """Tops of two of a random router, every tile edge off the arrays' edges; relative to the largest result."""
    rng = np.random.default_rng(experts + rows)
    x = rng.normal(size=(rows, 50)).astype(np.float32)
    w = rng.normal(size=(experts, 70, 50)).astype(np.float32)
    chosen = np.argsort(rng.random((rows // 2, experts)), axis=1)[:, :2]
    of_router = np.bincount(chosen.ravel(), minlength=experts)
    one_has_all = np.zeros(experts, int)
    one_has_all[experts // 2] = rows
    multiply = jax.jit(partial(multiply_tuned, tuning=cut()))
    for sizes in (of_router, one_has_all):
        got = np.asarray(multiply(x, w.astype(jnp.dtype(dtype)), sizes.astype(np.int32)))
        want = oracle(x, w, sizes.tolist())
        limit = {"float32": 1e-5, "bfloat16": 2e-2}[dtype]
        assert np.abs(got - want).max() <= limit * np.abs(want).max()
        assert (got[sizes.sum() :] == 0).all()


@pytest.mark.parametrize(
    "changes", [{}, {"row_tile": 64}, {"row_tile": 128, "band": 8}, {"out_tile": 128}, {"in_tile": 128, "band": 1}]
)
def test_triton_tiles_of_every_size_give_one_product_per_expert(changes: dict[str, int]) -> None:
    w = weights(5, "float32")
    x = np.random.default_rng(0).normal(size=(70, WIDTH)).astype(np.float32)
    multiply = jax.jit(partial(multiply_tuned, tuning=cut(**changes)))
    for sizes in ([1, 0, 33, 0, 16], [0, 70, 0, 0, 0]):
        got = np.asarray(multiply(x, w, np.array(sizes, np.int32)))
        assert np.abs(got - oracle(x, w, sizes)).max() < 1e-5 * np.abs(got).max()


def test_triton_never_reads_the_weights_of_an_idle_expert() -> None:
    w = weights(4, "float32")
    w[[0, 3]] = np.nan
    x = np.random.default_rng(0).normal(size=(24, WIDTH)).astype(np.float32)
    got = np.asarray(jax.jit(partial(multiply_tuned, tuning=cut()))(x, w, np.array([0, 5, 17, 0], np.int32)))
    assert np.isfinite(got).all()
    assert (got[22:] == 0).all()


def test_row_tiles_name_expert_first_row_and_count() -> None:
    tiles = np.asarray(row_tiles(jnp.array([3, 0, 20], jnp.int32), num_rows=26, row_tile=16))
    # expert 3 of 3: the rows of nobody; behind it a tile that no split of 26 rows into 4 groups lacked
    assert tiles[:, :4].tolist() == [[0, 2, 2, 3], [0, 3, 19, 23], [3, 16, 4, 3]]
    assert tiles.shape == (3, 5)
    assert tiles[2, 4] == 0


@pytest.mark.parametrize(("rows", "experts"), [(1, 8), (2, 8), (9, 2), (33, 4), (64, 64)])
def test_there_are_tiles_for_every_split(rows: int, experts: int) -> None:
    rng = np.random.default_rng(rows)
    for _ in range(20):
        kinds = rng.integers(0, experts + 1, size=rows)
        sizes = np.bincount(kinds, minlength=experts + 1)[:experts].astype(np.int32)
        expert, first, count = np.asarray(row_tiles(jnp.asarray(sizes), num_rows=rows, row_tile=16))
        owners = np.full(rows, -1)
        for e, start, n in zip(expert, first, count, strict=True):
            assert (owners[start : start + n] == -1).all()
            owners[start : start + n] = e
        assert owners.tolist() == np.repeat(np.arange(experts + 1), [*sizes, rows - sizes.sum()]).tolist()


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
def test_tuning_follows_the_rows_an_expert_gets(platform: str) -> None:
    target = Target(platform=platform)
    facts = {"experts": 8, "outs": 4096, "ins": 14336, "dtype": "bfloat16"}
    heights = [tuning_for(target, rows=rows, **facts).row_tile for rows in (2, 128, 512, 8192)]
    assert heights == [16, 16, 64, 128]
    use = {**{name: getattr(cut(), name) for name in Tuning.__slots__}, "row_tile": 32}
    mine = Table(entries=(Entry(section="grouped_matmul", use=tuple(use.items())),))
    assert tuning_for(target, rows=2, table=mine, **facts) == cut(row_tile=32)
    with pytest.raises(ValueError, match="row_tile is 8"):
        cut(row_tile=8)
    with pytest.raises(ValueError, match="num_stages is 0"):
        cut(num_stages=0)
    half = Table(entries=(Entry(section="grouped_matmul", use=(("row_tile", 16),)),))
    with pytest.raises(ValueError, match="out_tile, in_tile, band, num_warps, num_stages missing"):
        tuning_for(target, rows=2, table=half, **facts)


@pytest.mark.parametrize(
    ("rows", "experts", "tile"), [(4, 8, 8), (64, 8, 8), (72, 8, 16), (512, 8, 64), (4096, 8, 64), (1, 1, 8)]
)
def test_tiles_are_as_high_as_an_even_share(rows: int, experts: int, tile: int) -> None:
    assert tile_rows(rows, experts) == tile


@pytest.mark.parametrize(("dtype", "copies"), [("float32", 0), ("uint16", 0), ("bfloat16", 1)])
def test_what_a_call_copies_of_the_weights(dtype: str, copies: int) -> None:
    num_experts, side = 32, 128
    w = jax.ShapeDtypeStruct((num_experts, side, side), dtype)
    arguments = (jax.ShapeDtypeStruct((16, side), "float32"), w, jax.ShapeDtypeStruct((num_experts,), "int32"))
    multiply = jax.jit(partial(grouped_matmul, backend=Backend.XLA))
    analysis = multiply.lower(*arguments).compile().memory_analysis()
    assert analysis is not None
    one_expert = side * side * 4
    weight_bytes = num_experts * side * side * jnp.dtype(dtype).itemsize
    assert analysis.temp_size_in_bytes < copies * weight_bytes + 3 * one_expert


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((6, 8), (2, 5, 9), (2,)), r"\(6, 8\) and w is \(2, 5, 9\)"),
        (((6, 8), (5, 8), (2,)), r"w is \(5, 8\)"),
        (((6, 8), (2, 5, 8), (3,)), r"int32\[2\]"),
    ],
)
def test_what_does_not_fit_is_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    x, w = (np.zeros(shape, np.float32) for shape in shapes[:2])
    with pytest.raises(ValueError, match=message):
        grouped_matmul(x, w, np.zeros(shapes[2], np.int32), backend=Backend.XLA)  # pyright: ignore[reportArgumentType]
