"""Products of int8 weights: the same bits by XLA's dots and the native kernel, within a bound of the float product."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from native_backend import by_vectors, need

from pallas_kernels.backend import Backend
from pallas_kernels.int8 import MOST_INS, Int8Weight, quantise
from pallas_kernels.linear import Weight, linear
from pallas_kernels.native.library import library, packs_int8_weights
from pallas_kernels.packed_int8 import PackedInt8Weight, pack_int8
from pallas_kernels.target import Target, assume_target

KINDS = ("plain", "packed")
SHAPES = ((32, 64), (48, 40), (7, 3), (96, 544), (2080, 100))
ROWS = (1, 3, 4, 15, 16, 17, 33, 64)


def weight(w: np.ndarray, kind: str) -> Weight:
    """w f32[B, A], quantised by numpy."""
    values, scales = quantised(w)
    if kind == "plain":
        return Int8Weight(values=jnp.asarray(values), scales=jnp.asarray(scales), dtype="bfloat16")
    need(Backend.NATIVE)
    if not packs_int8_weights():
        pytest.skip(f"packed int8 weights are multiplied by AMX or AVX512-VNNI, here is {library().unit}")
    return PackedInt8Weight(tiles=jnp.asarray(pack_int8(values)), scales=jnp.asarray(scales), ins=w.shape[1])


def quantised(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    top = np.abs(x).max(axis=-1)
    values = np.rint(x * (np.float32(127) / top)[:, None])
    return values.astype(np.int8), top * np.float32(1 / 127)


def oracle(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    (x_values, x_scales), (w_values, w_scales) = quantised(x), quantised(w)
    sums = (x_values.astype(np.int64) @ w_values.astype(np.int64).T).astype(np.float32)
    return sums * (x_scales[:, None] * w_scales[None, :])


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("outs", "ins"), SHAPES)
def test_the_bits_are_those_of_whole_numbers(kind: str, outs: int, ins: int) -> None:
    w, multiply = draw(outs, ins), jax.jit(linear)
    held = weight(w, kind)
    assert held.shape == w.shape
    for num_rows in ROWS:
        x = draw(num_rows, ins, seed=num_rows)
        np.testing.assert_array_equal(np.asarray(multiply(x, held)), oracle(x, w), err_msg=f"{num_rows} rows")


@pytest.mark.parametrize(("outs", "ins"), SHAPES)
def test_the_bits_are_the_same_by_vectors_where_amx_is(outs: int, ins: int, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = draw(outs, ins), draw(64, ins, seed=1)
    held = weight(w, "packed")
    if library().product("int8") != "AMX":
        pytest.skip("vectors multiply int8 here anyway")
    by_vectors(monkeypatch)
    np.testing.assert_array_equal(np.asarray(jax.jit(lambda x: linear(x, held))(x)), oracle(x, w))


def test_the_largest_sums_are_exact() -> None:
    """127 by -127 everywhere: the sums with 128 added to the weights come nearest to the end of int32."""
    values, scales = np.full((32, MOST_INS), -127, np.int8), jnp.ones(32)
    need(Backend.NATIVE)
    if not packs_int8_weights():
        pytest.skip(f"packed int8 weights are multiplied by AMX or AVX512-VNNI, here is {library().unit}")
    held = PackedInt8Weight(tiles=jnp.asarray(pack_int8(values)), scales=scales, ins=MOST_INS)
    out = np.asarray(jax.jit(linear)(np.full((3, MOST_INS), 127, np.float32), held))
    assert (out == np.float32(-127 * 127 * MOST_INS)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_how_far_from_the_float_product(kind: str) -> None:
    x, w, bias = draw(20, 300), draw(70, 300, seed=1), draw(70, seed=2)
    error = np.abs(np.asarray(jax.jit(linear)(x, weight(w, kind), bias)) - (x @ w.T + bias))
    # half a step of either side, times the other side
    steps = np.abs(x).max(axis=1) / 127, np.abs(w).max(axis=1) / 127
    bound = np.abs(x).sum(1)[:, None] * steps[1] / 2 + steps[0][:, None] / 2 * np.abs(w).sum(1)
    assert (error <= bound + 300 * steps[0][:, None] * steps[1] / 4).all()
    assert error.max() < 0.02 * np.abs(x @ w.T).max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_zeros_or_of_nothing_finite(kind: str) -> None:
    x = draw(6, 70)
    x[0], x[1, 3], x[2, 5], x[3, 69], x[4] = 0, np.nan, np.inf, -np.inf, 1e-35
    out = np.asarray(jax.jit(linear)(x, weight(draw(40, 70, seed=1), kind)))
    assert (out[0] == 0).all()
    assert not np.isfinite(out[1:4]).any()
    assert (np.abs(out[4]) < 1e-30).all()
    assert np.isfinite(out[5]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_as_of_a_table(kind: str) -> None:
    w = draw(75, 100)
    which = np.array([0, 74, 31, 32, 15, 16, 47, 0], np.int32)
    held = weight(w, kind)
    assert not isinstance(held, jax.Array)
    rows = np.asarray(jax.jit(lambda table, ids: table.rows(ids))(held, which))
    values, scales = quantised(w)
    np.testing.assert_array_equal(rows, (values * scales[:, None])[which])


def test_many_rows_go_by_in_chunks() -> None:
    w, x = draw(64, 4096), draw(600, 4096, seed=1)  # 2.4 MB of quantised rows: more than a chunk
    np.testing.assert_array_equal(np.asarray(jax.jit(linear)(x, weight(w, "packed"))), oracle(x, w))


def test_activations_stay_as_they_are_on_a_gpu() -> None:
    x, w = draw(5, 64), draw(24, 64, seed=1)
    with assume_target(Target(platform="cuda", kind="NVIDIA H200")):
        out = np.asarray(linear(jnp.asarray(x), weight(w, "plain")))
    values, scales = quantised(w)
    want = x.astype(jnp.bfloat16).astype(np.float64) @ values.astype(np.float64).T * scales
    np.testing.assert_allclose(out, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_quantise_rounds_to_127_parts() -> None:
    values, scales = jax.jit(quantise)(np.array([[0.5, -1.27, 0.004, 0.006], [0, 0, 0, 0]], np.float32))
    assert np.asarray(values).tolist() == [[50, -127, 0, 1], [0, 0, 0, 0]]
    assert np.asarray(scales)[0] == pytest.approx(0.01)


def test_more_inputs_than_int32_can_sum_are_refused() -> None:
    w = Int8Weight(values=jnp.zeros((1, MOST_INS + 1), jnp.int8), scales=jnp.ones(1), dtype="float32")
    with pytest.raises(ValueError, match=rf"w has {MOST_INS + 1} inputs: .* exact up to {MOST_INS}"):
        linear(jnp.zeros((1, MOST_INS + 1)), w)
