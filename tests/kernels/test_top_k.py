"""The k largest without a sort of the row: the very result of `lax.top_k`, ties included."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from pallas_kernels.target import Target, assume_target
from pallas_kernels.top_k import top_k

GPU = Target(platform="cuda", kind="NVIDIA H100")


def both(x: np.ndarray, k: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    with assume_target(GPU):  # the same program on the CPU, as it is traced for a GPU
        got = jax.jit(lambda x: top_k(x, k))(x)
    return list(map(np.asarray, got)), list(map(np.asarray, lax.top_k(x, k)))


@pytest.mark.parametrize(
    ("rows", "vocab", "k"), [(3, 5000, 20), (2, 128_256, 256), (1, 8191, 255), (2, 33, 1), (2, 50, 50)]
)
@pytest.mark.parametrize("levels", [3, 1000, None])
def test_is_the_result_of_a_sort(rows: int, vocab: int, k: int, levels: int | None) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, vocab)) if levels is None else rng.integers(0, levels, size=(rows, vocab))
    (values, ids), (want_values, want_ids) = both(x.astype(np.float32), k)
    np.testing.assert_array_equal(values, want_values)
    np.testing.assert_array_equal(ids, want_ids)


def test_banned_tokens_and_rows_of_nothing_else() -> None:
    x = np.full((2, 70_000), -np.inf, np.float32)
    x[0, [5, 69_999, 40_000]] = 1.0, 2.0, 2.0
    (values, ids), (want_values, want_ids) = both(x, 256)
    assert ids[0, :3].tolist() == [40_000, 69_999, 5]
    np.testing.assert_array_equal(values, want_values)
    np.testing.assert_array_equal(ids, want_ids)


def test_sorts_no_row_of_the_vocabulary() -> None:
    with assume_target(GPU):
        text = (
            jax.jit(lambda x: top_k(x, 256)).trace(jax.ShapeDtypeStruct((64, 128_256), jnp.float32)).lower().as_text()
        )
    widths = [int(n) for n in re.findall(r"top_k.*?tensor<64x(\d+)xf32>", text)]
    assert widths
    assert max(widths) <= 8192
