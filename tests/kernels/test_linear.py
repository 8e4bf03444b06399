"""The dot of dense layers."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from native_backend import by_vectors, need

from pallas_kernels.backend import Backend
from pallas_kernels.linear import linear
from pallas_kernels.native.library import library, packs_weights
from pallas_kernels.packed import PackedWeight, can_pack, pack


def data(num_rows: int, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(48, 32)).astype(np.float32).astype(jnp.dtype(dtype))
    return rng.normal(size=(num_rows, 32)).astype(np.float32), w, rng.normal(size=48).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("num_rows", [1, 3, 5])
def test_rounds_x_and_sums_in_float32(dtype: str, num_rows: int) -> None:
    x, w, bias = data(num_rows, dtype)
    want = x.astype(w.dtype).astype(np.float64) @ w.astype(np.float64).T
    got = np.asarray(jax.jit(linear)(x, w))
    assert got.dtype == np.float32
    assert got.shape == (num_rows, 48)
    np.testing.assert_allclose(got, want, atol=1e-5)
    got = np.asarray(jax.jit(linear)(x, w, bias.astype(w.dtype)))
    np.testing.assert_allclose(got, want + bias.astype(w.dtype).astype(np.float64), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_row_of_any_weights_leaves_them_as_they_are(dtype: str) -> None:
    x, w = (jax.ShapeDtypeStruct(shape, d) for shape, d in (((1, 1024), "float32"), ((1024, 1024), dtype)))
    analysis = jax.jit(linear).lower(x, w).compile().memory_analysis()
    assert analysis is not None
    assert analysis.temp_size_in_bytes < 100_000


def test_bits_of_a_row_do_not_depend_on_the_others() -> None:
    x, w, _ = data(40, "bfloat16")
    multiply = jax.jit(linear)
    alone = np.asarray(multiply(x[7:8], w))
    assert (np.asarray(multiply(x, w))[7] == alone[0]).all()
    assert (np.asarray(multiply(x[4:12], w))[3] == alone[0]).all()


@pytest.mark.parametrize(
    ("x", "w", "bias", "message"),
    [((2, 3), (4, 5), (4,), r"x is \(2, 3\)"), ((3,), (4, 3), (4,), r"x is \(3,\)"), ((2, 3), (4, 3), (3,), "bias is")],
)
def test_what_does_not_fit_is_refused(
    x: tuple[int, ...], w: tuple[int, ...], bias: tuple[int, ...], message: str
) -> None:
    arrays = [jnp.asarray(np.zeros(shape, np.float32)) for shape in (x, w, bias)]
    with pytest.raises(ValueError, match=message):
        linear(*arrays)


@pytest.mark.parametrize("num_rows", [1, 3, 4, 15, 16, 17, 33, 100])
def test_packed_weights_give_the_bits_of_plain_ones(num_rows: int) -> None:
    need_packed()
    if library().product("bfloat16") != "AMX":
        pytest.skip("XLA's order of sums is known for AMX alone")
    rng = np.random.default_rng(0)
    for outs, ins in ((32, 32), (96, 544), (2080, 64)):
        w = rng.normal(size=(outs, ins)).astype(jnp.bfloat16)
        x, bias = rng.normal(size=(num_rows, ins)).astype(np.float32), rng.normal(size=outs).astype(np.float32)
        packed = PackedWeight(tiles=pack(w))  # pyright: ignore[reportArgumentType]
        assert packed.shape == w.shape
        assert packed.tiles.nbytes == w.nbytes
        # of whole tiles of rows: XLA multiplies a last row that stands alone in another order, at 17 x 2080 for one
        whole = np.pad(x, ((0, -num_rows % 16), (0, 0)))
        want = np.asarray(jax.jit(linear)(whole, w, bias))[:num_rows]
        np.testing.assert_array_equal(np.asarray(jax.jit(linear)(x, packed, bias)), want)


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize(("outs", "ins"), [(32, 32), (96, 544), (2080, 64), (64, 4864)])
def test_packed_products_are_exact_within_their_rounding(
    outs: int, ins: int, vectors: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    multiply = packed_multiply(monkeypatch, vectors=vectors)
    rng = np.random.default_rng(0)
    w = rng.normal(size=(outs, ins)).astype(jnp.bfloat16)
    packed = PackedWeight(tiles=jnp.asarray(pack(w)))
    whole = rng.normal(size=(100, ins)).astype(np.float32)
    wide, rows = w.astype(np.float64).T, whole.astype(jnp.bfloat16).astype(np.float64)
    got = np.asarray(multiply(whole, packed))
    # each of the A additions rounds once, by half a unit in the last place of what is summed so far
    assert (np.abs(got - rows @ wide) <= (ins + 1) * 2**-24 * (np.abs(rows) @ np.abs(wide))).all()
    np.testing.assert_allclose(
        got, np.asarray(jax.jit(linear)(whole, w)), rtol=0, atol=2e-6 * np.abs(rows @ wide).max()
    )
    for num_rows in (1, 2, 13, 14, 15, 28, 29, 33):
        for first in (0, 100 - num_rows):
            some = np.asarray(multiply(whole[first : first + num_rows], packed))
            np.testing.assert_array_equal(some, got[first : first + num_rows], err_msg=f"{num_rows} rows from {first}")


@pytest.mark.parametrize("vectors", [False, True])
def test_what_is_not_finite_stays_in_its_row_or_output(vectors: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    multiply = packed_multiply(monkeypatch, vectors=vectors)
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(64, 96)).astype(jnp.bfloat16), rng.normal(size=(17, 96)).astype(np.float32)
    want = np.asarray(multiply(x, PackedWeight(tiles=jnp.asarray(pack(w)))))
    x[3, 5], x[8, 95], w[40, 0] = np.nan, np.inf, np.nan
    got = np.asarray(multiply(x, PackedWeight(tiles=jnp.asarray(pack(w)))))
    others, rest = [row for row in range(17) if row not in (3, 8)], np.arange(64) != 40
    assert np.isnan(got[3]).all()
    np.testing.assert_array_equal(got[8, rest], np.sign(w[rest, 95].astype(np.float32)) * np.inf)
    assert np.isnan(got[:, 40]).all()
    np.testing.assert_array_equal(got[np.ix_(others, rest)], want[np.ix_(others, rest)])


def test_subnormal_numbers_count_as_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply = packed_multiply(monkeypatch, vectors=True)
    w = np.full((32, 32), 2.0**-130, np.float32).astype(jnp.bfloat16)
    packed, ones = PackedWeight(tiles=jnp.asarray(pack(w))), np.ones((2, 32), np.float32)
    assert (np.asarray(multiply(ones, packed)) == 0).all()
    assert (np.asarray(multiply(ones * np.float32(2.0**120), packed)) == 0).all()


def test_rows_of_a_packed_weight() -> None:
    w = np.random.default_rng(0).normal(size=(96, 64)).astype(jnp.bfloat16)
    which = np.array([0, 95, 31, 32, 15, 16, 47, 0], np.int32)
    rows = jax.jit(lambda tiles: PackedWeight(tiles=tiles).rows(jnp.asarray(which)))(pack(w))
    np.testing.assert_array_equal(np.asarray(rows), w[which].astype(np.float32))


@pytest.mark.parametrize(("outs", "ins", "dtype"), [(48, 64, "bfloat16"), (64, 48, "bfloat16"), (64, 64, "float32")])
def test_what_stays_plain(outs: int, ins: int, dtype: str) -> None:
    assert not can_pack(outs, ins, dtype)
    assert can_pack(64, 64, "bfloat16")


def packed_multiply(monkeypatch: pytest.MonkeyPatch, *, vectors: bool) -> Callable[..., jax.Array]:
    """`linear`, traced anew. vectors: by AVX512-BF16 where the CPU has AMX, too."""
    need_packed()
    if vectors:
        by_vectors(monkeypatch)
    return jax.jit(lambda x, w: linear(x, w))


def need_packed() -> None:
    need(Backend.NATIVE)
    if not packs_weights():
        pytest.skip(f"packed weights are multiplied by AMX or AVX512-BF16, here is {library().unit}")
