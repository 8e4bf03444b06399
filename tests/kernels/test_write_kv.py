"""Writes land where the slots say, nowhere else, and in place."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from native_backend import need

from pallas_kernels.backend import Backend
from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.pool_spec import pool_spec
from pallas_kernels.write_kv import write_kv

SLOTS = (16 * 3 + 5, 16 * 1 + 15, 16 * 1, 16 * 4 + 7, 0, 0)  # the last two are padding


def filled(backend: Backend, dtype: str) -> LayerPool:
    spec = pool_spec(backend, num_blocks=5, block_size=16, kv_heads=2, head_dim=8, dtype=dtype)
    return jax.tree.map(lambda array: np.full(array.shape, 7, array.dtype), spec.abstract())


def bits(values: np.ndarray, dtype: str) -> np.ndarray:
    return values.astype(jnp.bfloat16).view(np.uint16) if dtype == "bfloat16" else values


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.XLA, Backend.NATIVE])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("given", ["float32", "bfloat16"])
def test_every_token_lands_in_its_slot_and_nothing_else_moves(backend: Backend, dtype: str, given: str) -> None:
    k, v = np.random.default_rng(0).normal(size=(2, len(SLOTS), 2, 8)).astype(np.float32).astype(jnp.dtype(given))
    need(backend)
    write = jax.jit(partial(write_kv, backend=backend))
    pool, want = write(filled(backend, dtype), k, v, np.array(SLOTS, np.int32)), filled(backend, dtype)
    (k_pool, v_pool), (k_want, v_want) = (map(np.array, (each.k, each.v)) for each in (pool, want))
    if backend.transposes_keys:
        k_pool, k_want = k_pool.swapaxes(2, 3), k_want.swapaxes(2, 3)
    for token, slot in enumerate(SLOTS[:4]):
        k_want[slot // 16, :, slot % 16] = bits(k[token].astype(np.float32), dtype)
        v_want[slot // 16, :, slot % 16] = bits(v[token].astype(np.float32), dtype)
    assert (k_pool[1:] == k_want[1:]).all()
    assert (v_pool[1:] == v_want[1:]).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_tokens", [8, 512])
@pytest.mark.parametrize("backend", [Backend.XLA, Backend.NATIVE])
def test_the_write_is_in_place(backend: Backend, dtype: str, num_tokens: int) -> None:
    need(backend)
    spec = pool_spec(backend, num_blocks=1024, block_size=64, kv_heads=4, head_dim=64, dtype=dtype)
    values = jax.ShapeDtypeStruct((num_tokens, 4, 64), "float32")
    slots = jax.ShapeDtypeStruct((num_tokens,), "int32")
    write = jax.jit(partial(write_kv, backend=backend), donate_argnums=0)
    analysis = write.lower(spec.abstract(), values, values, slots).compile().memory_analysis()
    assert analysis is not None
    assert analysis.alias_size_in_bytes == 1024 * spec.bytes_per_block
    assert analysis.temp_size_in_bytes <= 2 * num_tokens * 4 * 64 * 4 + 4096


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": np.zeros((3, 2, 4))}, r"\(3, 2, 4\)"),
        ({"slots": np.zeros(4, np.int32)}, r"\(4,\)"),
        ({"slots": np.zeros(3, np.float32)}, "slots is float32"),
        ({"rope": (np.zeros((3, 5)), np.zeros((3, 5)))}, r"\(3, 5\).*at most 4"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    values = np.zeros((3, 2, 8), np.float32)
    good = {"k": values, "v": values, "slots": np.zeros(3, np.int32)}
    arguments: dict[str, object] = {**good, **change}
    with pytest.raises(ValueError, match=message):
        write_kv(filled(Backend.XLA, "float32"), **arguments, backend=Backend.XLA)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": np.zeros((5, 2, 16, 8), np.float32)}, "xla wants"),
        ({"v": np.zeros((5, 2, 16, 8), np.uint16)}, "float32 and uint16"),
        ({"k_scale": np.zeros((5, 2, 16), np.float32)}, "a pool of float32 has none"),
        ({"dtype": "int8"}, r"a pool of int8 has \(5, 2, 16\)"),
    ],
)
def test_a_pool_of_another_layout_is_refused(change: dict[str, object], message: str) -> None:
    values, slots = jnp.zeros((3, 2, 8)), jnp.zeros(3, jnp.int32)
    pool = replace(filled(Backend.XLA, "float32"), **change)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=message):
        write_kv(pool, values, values, slots, backend=Backend.XLA)
