"""The maps from rows to work that the XLA attention derives, its exact scaling, and what the attention refuses."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.backend import Backend
from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.ragged_attention import attention_work, ragged_attention
from pallas_kernels.ragged_attention.xla_decode import decode_items
from pallas_kernels.ragged_attention.xla_prefill import TILE, prefill_tiles
from pallas_kernels.ragged_attention.xla_softmax import power_of_two

jitted_tiles = jax.jit(prefill_tiles, static_argnames="num_tokens")


def test_decode_items_follow_the_sum_of_the_lengths() -> None:
    cu_q_lens = np.array([0, 1, 2, 3, 10, 10], np.int32)
    kv_lens = np.array([1, 65, 1000, 64, 0], np.int32)
    items = jax.jit(decode_items, static_argnames=("block_size", "window"))
    ends, shift = np.asarray(items(cu_q_lens, kv_lens, block_size=64, window=None))
    assert ends.tolist() == [1, 3, 19, 19, 19]
    assert shift.tolist()[:3] == [0, -1, -3]
    ends, shift = np.asarray(items(cu_q_lens, kv_lens, block_size=64, window=100))
    assert ends.tolist() == [1, 3, 5, 5, 5]  # the oldest key of the third row is 900, in its block 14
    assert shift.tolist()[:3] == [0, -1, 14 - 3]


def test_prefill_tiles_cover_rows_of_several_tokens() -> None:
    cu_q_lens = np.array([0, 1, TILE + 6, TILE + 8, TILE + 8], np.int32)
    kv_lens = np.array([9, 100, 2, 0], np.int32)
    tiles, count = map(np.asarray, jitted_tiles(cu_q_lens, kv_lens, num_tokens=4 * TILE))
    assert count == 3
    row, token, position, kv_len = tiles[:, :3].tolist()
    assert row == [1, 1, 2]
    assert token == [1, 1 + TILE, TILE + 6]
    assert position == [100 - TILE - 5, 95, 0]
    assert kv_len == [100, 100, 2]


@pytest.mark.parametrize("num_rows", [1, 4, 32])
def test_the_tile_map_has_room_for_any_split(num_rows: int) -> None:
    num_tokens = 64
    for used in range(1, min(num_rows, num_tokens // 2) + 1):
        q_lens = np.full(num_rows, 0)
        q_lens[:used] = 2
        q_lens[0] = num_tokens - 2 * (used - 1)
        cu_q_lens = np.concatenate([[0], np.cumsum(q_lens)]).astype(np.int32)
        tiles, count = jitted_tiles(cu_q_lens, q_lens.astype(np.int32), num_tokens=num_tokens)
        assert int(count) <= tiles.shape[1]


def test_powers_of_two_are_exact() -> None:
    exponents = np.array([0, -1, -10, -126, -127, -1000, -(2**23)], np.int32)
    assert jax.jit(power_of_two)(exponents).tolist() == [1.0, 0.5, 2.0**-10, 2.0**-126, 0.0, 0.0, 0.0]


# what is refused


def array(*shape: int, dtype: str = "int32") -> np.ndarray:
    return np.zeros(shape, jnp.dtype(dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cu_q_lens": array(4)}, r"\(4,\)"),
        ({"block_tables": array(3, 2)}, r"\(3, 2\)"),
        ({"kv_lens": array(4, dtype="float32")}, "kv_lens is float32"),
        ({"num_tokens": 3}, "num_tokens is 3"),
        ({"block_size": 0}, "block_size is 0"),
        ({"window": 0}, "window is 0"),
    ],
)
def test_work_that_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"cu_q_lens": array(5), "kv_lens": array(4), "block_tables": array(4, 2), "num_tokens": 4}
    arguments = {**good, "block_size": 16, "window": None, "backend": Backend.XLA, **change}
    with pytest.raises(ValueError, match=message):
        attention_work(**arguments)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": array(5, 4, 8, dtype="float32")}, r"q is \(5, 4, 8\)"),
        ({"q": array(4, 3, 8, dtype="float32")}, "q has 3 heads"),
        ({"k": array(9, 2, 16, 8, dtype="float32")}, "pool is"),
        ({"v": array(9, 2, 16, 8, dtype="bfloat16")}, "float32 and bfloat16"),
        ({"softcap": 0.0}, "softcap is 0.0"),
        ({"sinks": array(2, dtype="float32")}, "sinks is"),
    ],
)
def test_attention_that_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    make = partial(attention_work, num_tokens=4, block_size=16, window=None, backend=Backend.XLA)
    work = jax.eval_shape(make, array(5), array(4), array(4, 2))
    arrays = {"k": array(9, 2, 8, 16, dtype="float32"), "v": array(9, 2, 16, 8, dtype="float32")}
    arrays |= {name: value for name, value in change.items() if name in arrays}
    pool = LayerPool(**arrays, dtype="float32")  # pyright: ignore[reportArgumentType]
    good: dict[str, object] = {"q": array(4, 4, 8, dtype="float32"), "pool": pool, "work": work, "scale": 1.0}
    arguments = {**good, **{name: value for name, value in change.items() if name not in arrays}}
    with pytest.raises(ValueError, match=message):
        ragged_attention(**arguments)  # pyright: ignore[reportArgumentType]
