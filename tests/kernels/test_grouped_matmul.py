"""Grouped products against numpy, whatever the sizes of the groups."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.backend import Backend
from pallas_kernels.grouped_matmul import grouped_matmul
from pallas_kernels.grouped_matmul.xla import tile_rows

WIDTH, HEIGHT = 24, 40


def weights(num_experts: int, dtype: str) -> np.ndarray:
    w = np.random.default_rng(1).normal(size=(num_experts, HEIGHT, WIDTH)).astype(np.float32)
    if dtype == "uint16":
        return w.astype(jnp.bfloat16).view(np.uint16)
    return w.astype(jnp.dtype(dtype))


def oracle(x: np.ndarray, w: np.ndarray, sizes: list[int]) -> np.ndarray:
    w = w.view(jnp.bfloat16) if w.dtype == np.uint16 else w
    x = x.astype(w.dtype).astype(np.float64)
    out = np.zeros((len(x), HEIGHT))
    start = 0
    for expert, size in enumerate(sizes):
        out[start : start + size] = x[start : start + size] @ w[expert].astype(np.float64).T
        start += size
    return out


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.XLA])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint16"])
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
