"""Products of packed float32 weights: exact within their rounding, the same bits for a row whatever is beside it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from native_backend import need

from pallas_kernels.backend import Backend
from pallas_kernels.linear import linear
from pallas_kernels.packed_f32 import PackedF32Weight, can_pack_f32, pack_f32, packed_f32_shape

SHAPES = ((32, 1), (64, 127), (96, 128), (32, 300), (1056, 40), (4096, 96))
ROWS = (1, 2, 3, 5, 6, 7, 13, 14, 15, 28, 29, 43, 64, 65, 100)
"""Both sides of a block of rows: 14, or 6 without AVX-512."""


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pack(w: np.ndarray) -> PackedF32Weight:
    need(Backend.NATIVE)
    return PackedF32Weight(panels=jnp.asarray(pack_f32(w)))


@pytest.mark.parametrize(("outs", "ins"), SHAPES)
def test_products_are_exact_within_their_rounding(outs: int, ins: int) -> None:
    w, bias, multiply = draw(outs, ins), draw(outs, seed=1), jax.jit(linear)
    packed = pack(w)
    assert (packed.shape, packed.panels.shape) == (w.shape, packed_f32_shape(outs, ins))
    assert packed.panels.nbytes == w.nbytes
    for num_rows in ROWS:
        x = draw(num_rows, ins, seed=num_rows + 2)
        got = np.asarray(multiply(x, packed, bias))
        exact = x.astype(np.float64) @ w.astype(np.float64).T + bias
        size = np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64).T + np.abs(bias)
        # each of the A additions rounds once, by half a unit in the last place of what is summed so far
        assert (np.abs(got - exact) <= (ins + 1) * 2**-24 * size).all(), num_rows
        np.testing.assert_allclose(got, np.asarray(multiply(x, w, bias)), rtol=0, atol=2e-6 * size.max())


@pytest.mark.parametrize(("outs", "ins"), [(64, 1000), (96, 129)])
def test_bits_of_a_row_depend_on_nothing_else(outs: int, ins: int) -> None:
    packed, multiply, most = pack(draw(outs, ins)), jax.jit(linear), max(ROWS)
    x = draw(most, ins, seed=1)
    want = np.concatenate([np.asarray(multiply(x[n : n + 1], packed)) for n in range(most)])
    for num_rows in ROWS:
        for first in (0, most - num_rows):
            got = np.asarray(multiply(x[first : first + num_rows], packed))
            np.testing.assert_array_equal(got, want[first : first + num_rows], err_msg=f"{num_rows} rows from {first}")


def test_many_rows_go_by_in_chunks_with_the_same_bits() -> None:
    """More bytes of rows than a core's cache is thought to hold."""
    packed, multiply = pack(draw(64, 4096)), jax.jit(linear)
    x = draw(150, 4096, seed=1)
    got = np.asarray(multiply(x, packed))
    for first in (0, 13, 56, 70, 149):
        np.testing.assert_array_equal(got[first], np.asarray(multiply(x[first : first + 1], packed))[0])


def test_what_is_not_finite_stays_in_its_row_or_output() -> None:
    w, x = draw(64, 130), draw(17, 130, seed=1)
    packed = pack(w)
    want = np.asarray(jax.jit(linear)(x, packed))
    x[3, 5], x[8, 129] = np.nan, np.inf
    got = np.asarray(jax.jit(linear)(x, packed))
    assert np.isnan(got[3]).all()
    np.testing.assert_array_equal(got[8], np.sign(w[:, 129]) * np.inf)
    others = [row for row in range(17) if row not in (3, 8)]
    np.testing.assert_array_equal(got[others], want[others])
    w[40, 0] = np.nan
    got = np.asarray(jax.jit(linear)(x, pack(w)))[others]
    assert np.isnan(got[:, 40]).all()
    rest = np.arange(64) != 40
    np.testing.assert_array_equal(got[:, rest], want[others][:, rest])


def test_no_rows_give_none() -> None:
    assert jax.jit(linear)(jnp.zeros((0, 40)), pack(draw(64, 40))).shape == (0, 64)


def test_rows_of_a_packed_weight() -> None:
    w, which = draw(96, 50), np.array([0, 95, 31, 32, 64, 63, 0], np.int32)
    rows = jax.jit(lambda panels: PackedF32Weight(panels=panels).rows(jnp.asarray(which)))(pack_f32(w))
    np.testing.assert_array_equal(np.asarray(rows), w[which])


@pytest.mark.parametrize(("outs", "packs"), [(32, True), (48, False), (1, False), (32000, True)])
def test_what_stays_plain(outs: int, packs: bool) -> None:
    assert can_pack_f32(outs) == packs


def test_sizes_that_do_not_fit_are_refused_by_the_kernel() -> None:
    need(Backend.NATIVE)
    nothing = np.zeros(0, np.float32)
    call = jax.ffi.ffi_call("jaxpaged_linear_float32", jax.ShapeDtypeStruct((2, 40), jnp.float32))
    with pytest.raises(Exception, match="panels of 32 outputs"):
        jax.block_until_ready(
            call(draw(2, 8), draw(40, 8), nothing, nothing, nothing, nothing, np.zeros(0, np.int32), eps=np.float32(0))
        )
