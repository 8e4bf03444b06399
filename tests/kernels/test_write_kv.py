"""Writes land where the slots say, nowhere else, and in place."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.backend import Backend
from pallas_kernels.pool_spec import pool_spec
from pallas_kernels.write_kv import write_kv

SLOTS = (16 * 3 + 5, 16 * 1 + 15, 16 * 1, 16 * 4 + 7, 0, 0)  # the last two are padding


def filled(backend: Backend, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    spec = pool_spec(backend, num_blocks=5, block_size=16, kv_heads=2, head_dim=8, dtype=dtype)
    return tuple(np.full(shape, 7, spec.storage) for shape in (spec.k_shape, spec.v_shape))  # pyright: ignore[reportReturnType]


def bits(values: np.ndarray, dtype: str) -> np.ndarray:
    return values.astype(jnp.bfloat16).view(np.uint16) if dtype == "bfloat16" else values


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.XLA])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("given", ["float32", "bfloat16"])
def test_every_token_lands_in_its_slot_and_nothing_else_moves(backend: Backend, dtype: str, given: str) -> None:
    k, v = np.random.default_rng(0).normal(size=(2, len(SLOTS), 2, 8)).astype(np.float32).astype(jnp.dtype(given))
    write = jax.jit(partial(write_kv, backend=backend, block_size=16))
    k_pool, v_pool = map(np.array, write(*filled(backend, dtype), k, v, np.array(SLOTS, np.int32)))
    k_want, v_want = filled(backend, dtype)
    if backend == Backend.XLA:
        k_pool, k_want = k_pool.swapaxes(2, 3), k_want.swapaxes(2, 3)
    for token, slot in enumerate(SLOTS[:4]):
        k_want[slot // 16, :, slot % 16] = bits(k[token].astype(np.float32), dtype)
        v_want[slot // 16, :, slot % 16] = bits(v[token].astype(np.float32), dtype)
    assert (k_pool[1:] == k_want[1:]).all()
    assert (v_pool[1:] == v_want[1:]).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_tokens", [8, 512])
def test_the_write_is_in_place(dtype: str, num_tokens: int) -> None:
    spec = pool_spec(Backend.XLA, num_blocks=1024, block_size=64, kv_heads=4, head_dim=64, dtype=dtype)
    pools = [jax.ShapeDtypeStruct(shape, spec.storage) for shape in (spec.k_shape, spec.v_shape)]
    values = jax.ShapeDtypeStruct((num_tokens, 4, 64), "float32")
    slots = jax.ShapeDtypeStruct((num_tokens,), "int32")
    write = jax.jit(partial(write_kv, backend=Backend.XLA, block_size=64), donate_argnums=(0, 1))
    analysis = write.lower(*pools, values, values, slots).compile().memory_analysis()
    assert analysis is not None
    assert analysis.alias_size_in_bytes == 1024 * spec.bytes_per_block
    assert analysis.temp_size_in_bytes <= 2 * num_tokens * 4 * 64 * 4 + 4096


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": np.zeros((3, 2, 4))}, r"\(3, 2, 4\)"),
        ({"slots": np.zeros(4, np.int32)}, r"\(4,\)"),
        ({"slots": np.zeros(3, np.float32)}, "slots is float32"),
        ({"k_pool": np.zeros((5, 2, 16, 8), np.float32)}, "xla wants"),
        ({"v_pool": np.zeros((5, 2, 16, 8), np.uint16)}, "float32 and uint16"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    k_pool, v_pool = filled(Backend.XLA, "float32")
    values = np.zeros((3, 2, 8), np.float32)
    good = {"k_pool": k_pool, "v_pool": v_pool, "k": values, "v": values, "slots": np.zeros(3, np.int32)}
    arguments: dict[str, object] = {**good, **change}
    with pytest.raises(ValueError, match=message):
        write_kv(**arguments, backend=Backend.XLA, block_size=16)  # pyright: ignore[reportArgumentType]
