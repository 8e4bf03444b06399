"""The dot of dense layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.linear import linear


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
