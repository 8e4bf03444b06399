"""What a layer's products do beside multiplying (norm, gate, residual): packed weights against plain ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from native_backend import need

from pallas_kernels.activations import ACTIVATIONS
from pallas_kernels.backend import Backend
from pallas_kernels.int8 import Int8Weight
from pallas_kernels.linear import Weight, linear
from pallas_kernels.mlp import mlp
from pallas_kernels.native.library import library
from pallas_kernels.norm import Norm, rms_norm
from pallas_kernels.packed import PackedWeight, pack
from pallas_kernels.packed_f32 import PackedF32Weight, pack_f32
from pallas_kernels.packed_int8 import PackedInt8Weight, pack_int8

KINDS = ("float32", "bfloat16", "int8")
STEP = {"float32": 2.0**-18, "bfloat16": 2.0**-8, "int8": 2.0**-6}
"""Of the largest value: numbers next to a half may round the other way between the two products, in float32 sums have
another order."""
ROWS = (1, 17, 70)
EMBED, FFN = 96, 160


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def weights(w: np.ndarray, kind: str) -> tuple[Weight, Weight]:
    """w f32[B, A] plain and packed."""
    need(Backend.NATIVE)
    if not library().product(kind):
        pytest.skip(f"packed weights of {kind} are multiplied by AMX, AVX512-BF16 or -VNNI, here is {library().unit}")
    if kind == "float32":
        return jnp.asarray(w), PackedF32Weight(panels=jnp.asarray(pack_f32(w)))
    if kind == "bfloat16":
        rounded = w.astype(jnp.bfloat16)
        return jnp.asarray(rounded), PackedWeight(tiles=jnp.asarray(pack(rounded)))
    top = np.abs(w).max(axis=1)
    values, scales = np.rint(w * (127 / top)[:, None]).astype(np.int8), jnp.asarray(top / 127)
    plain = Int8Weight(values=jnp.asarray(values), scales=scales, dtype="bfloat16")
    return plain, PackedInt8Weight(tiles=jnp.asarray(pack_int8(values)), scales=scales, ins=w.shape[1])


def layer(kind: str, *, packed: bool, activation: str = "silu") -> Callable[..., jax.Array]:
    gate_up = weights(draw(2 * FFN, EMBED, seed=1, scale=0.2), kind)[packed]
    down = weights(draw(EMBED, FFN, seed=2, scale=0.1), kind)[packed]
    norm = Norm(weight=jnp.asarray(draw(EMBED, seed=3)), eps=1e-5)
    run = partial(mlp, activation=activation, gate_up_bias=jnp.asarray(draw(2 * FFN, seed=4)))
    bias = jnp.asarray(draw(EMBED, seed=5))
    return jax.jit(lambda x, residual: run(x, gate_up, down, down_bias=bias, norm=norm, residual=residual))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_network_equals_the_plain_one(kind: str, activation: str) -> None:
    plain, packed = (layer(kind, packed=one, activation=activation) for one in (False, True))
    for num_rows in ROWS:
        x, residual = draw(num_rows, EMBED, seed=num_rows, scale=3), draw(num_rows, EMBED, seed=num_rows + 1)
        want = np.asarray(plain(x, residual))
        np.testing.assert_allclose(np.asarray(packed(x, residual)), want, rtol=0, atol=STEP[kind] * np.abs(want).max())
        exact = oracle(x, residual, activation)
        assert np.abs(want - exact).max() < 0.05 * np.abs(exact).max()


def oracle(x: np.ndarray, residual: np.ndarray, activation: str) -> np.ndarray:
    normed = x / np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True) + 1e-5) * draw(EMBED, seed=3)
    between = normed @ draw(2 * FFN, EMBED, seed=1, scale=0.2).T.astype(np.float64) + draw(2 * FFN, seed=4)
    gate = np.asarray(ACTIVATIONS[activation](jnp.asarray(between[:, :FFN], jnp.float32)))
    return (gate * between[:, FFN:]) @ draw(EMBED, FFN, seed=2, scale=0.1).T + draw(EMBED, seed=5) + residual


@pytest.mark.parametrize("kind", KINDS)
def test_bits_of_a_row_do_not_depend_on_the_others(kind: str) -> None:
    run = layer(kind, packed=True)
    x, residual = draw(300, EMBED), draw(300, EMBED, seed=9)
    whole = np.asarray(run(x, residual))
    for first, end in ((0, 1), (7, 8), (3, 35), (250, 300)):
        np.testing.assert_array_equal(np.asarray(run(x[first:end], residual[first:end])), whole[first:end])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_finite_stays_so_in_its_row(kind: str) -> None:
    x = draw(20, EMBED)
    x[3, 5], x[17, 90] = np.nan, np.inf
    out = np.asarray(layer(kind, packed=True)(x, np.zeros_like(x)))
    assert not np.isfinite(out[[3, 17]]).any()
    assert np.isfinite(np.delete(out, [3, 17], axis=0)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_rows_are_zeros_and_change_no_bit_of_the_others(kind: str) -> None:
    gate_up, down, other = (
        weights(draw(*shape, seed=1), kind)[1] for shape in ((2 * FFN, EMBED), (EMBED, FFN), (64, EMBED))
    )
    x, residual = draw(70, EMBED), draw(70, EMBED, seed=9)
    x[40:] = np.nan  # what padding holds is nobody's concern
    network = jax.jit(lambda x, r, count: mlp(x, gate_up, down, activation="silu", residual=r, count=count))
    product = jax.jit(lambda x, r, count: linear(x, other, residual=r, count=count))
    for run, rest in ((network, residual), (product, residual[:, :64])):
        for count in (0, 1, 17, 40):
            got = np.asarray(run(x, rest, np.array([count], np.int32)))
            np.testing.assert_array_equal(got[:count], np.asarray(run(x[:40], rest[:40], None))[:count])
            np.testing.assert_array_equal(got[count:], 0)


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_with_norm_bias_and_residual(kind: str, num_rows: int) -> None:
    plain, packed = weights(draw(64, EMBED, seed=1), kind)
    norm = Norm(weight=jnp.asarray(draw(EMBED, seed=2)), eps=1e-5)
    x, bias, residual = map(jnp.asarray, (draw(num_rows, EMBED, seed=3), draw(64, seed=4), draw(num_rows, 64, seed=5)))
    run = jax.jit(lambda w: linear(x, w, bias, norm=norm, residual=residual))
    want = np.asarray(run(plain))
    np.testing.assert_allclose(
        np.asarray(run(packed)), want, rtol=0, atol=min(STEP[kind], 2.0**-8) * np.abs(want).max()
    )
    # without the norm nothing is left that could round differently
    bare = jax.jit(lambda w, x: linear(x, w, bias, residual=residual))
    half = jnp.asarray(x, jnp.bfloat16)
    np.testing.assert_array_equal(np.asarray(bare(packed, half)), np.asarray(bare(packed, half.astype(jnp.float32))))


def test_the_norm_is_that_of_its_formula() -> None:
    x, weight = draw(5, 7, 48, scale=4), draw(48, seed=1)
    got = np.asarray(jax.jit(rms_norm)(x, Norm(weight=jnp.asarray(weight), eps=0.5)))
    want = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 0.5) * weight
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("norm", "residual", "message"),
    [
        (5, (2, 4), r"norm's weight is \(5,\): it must be \[3\]"),
        (3, (4, 2), r"residual is \(4, 2\): it must be \[2, 4"),
    ],
)
def test_what_does_not_fit_is_refused(norm: int, residual: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear(
            jnp.zeros((2, 3)),
            jnp.zeros((4, 3)),
            norm=Norm(weight=jnp.ones(norm), eps=0.0),
            residual=jnp.zeros(residual),
        )


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_give_none(kind: str) -> None:
    nothing = jnp.zeros((0, EMBED))
    assert layer(kind, packed=True)(nothing, nothing).shape == (0, EMBED)
    packed = weights(draw(64, EMBED), kind)[1]
    assert jax.jit(linear)(nothing, packed).shape == (0, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gate_up": jnp.zeros((8, 3))}, r"gate_up is \(8, 3\) and down is \[3, 5\]: gate_up must be \[10"),
        ({"gate_up_bias": jnp.zeros(5)}, r"bias is \(5,\): it must be \[10\]"),
        ({"down_bias": jnp.zeros(5)}, r"bias is \(5,\): it must be \[3\]"),
        ({"residual": jnp.zeros((2, 5))}, r"residual is \(2, 5\): it must be \[2, 3\]"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(change: dict[str, jax.Array], message: str) -> None:
    operands: dict[str, Any] = {"gate_up": jnp.zeros((10, 3)), "down": jnp.zeros((3, 5))} | change
    with pytest.raises(ValueError, match=message):
        mlp(jnp.zeros((2, 3)), activation="silu", **operands)
