"""Layouts, storage and sizes of one layer's pool."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from pallas_kernels.backend import Backend
from pallas_kernels.pool_spec import PoolSpec, default_block_size, pool_spec, read_as_float32, stored_as


def spec(backend: Backend, dtype: str = "float32", platform: str = "cpu") -> PoolSpec:
    return pool_spec(backend, num_blocks=7, block_size=16, kv_heads=2, head_dim=8, dtype=dtype, platform=platform)


def test_xla_holds_keys_transposed() -> None:
    assert spec(Backend.XLA).k_shape == (7, 2, 8, 16)
    assert spec(Backend.XLA).v_shape == (7, 2, 16, 8)


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.TRITON])
def test_the_others_hold_keys_like_values(backend: Backend) -> None:
    assert spec(backend).k_shape == spec(backend).v_shape == (7, 2, 16, 8)


@pytest.mark.parametrize("backend", list(Backend))
def test_bfloat16_is_bits_on_cpu_and_itself_elsewhere(backend: Backend) -> None:
    assert spec(backend, "bfloat16").storage == np.uint16
    assert spec(backend, "bfloat16").dtype == "bfloat16"
    assert spec(backend, "bfloat16", "rocm").storage.name == "bfloat16"
    assert spec(backend).storage == np.float32


def test_bytes_per_block() -> None:
    assert spec(Backend.XLA).bytes_per_block == 2 * 2 * 16 * 8 * 4
    assert spec(Backend.XLA, "bfloat16").bytes_per_block == 2 * 2 * 16 * 8 * 2


def test_kv_heads_are_the_sharded_axis() -> None:
    assert spec(Backend.XLA).k_axes == spec(Backend.XLA).v_axes == (None, "kv_heads", None, None)


def test_default_block_sizes() -> None:
    assert [default_block_size(b) for b in (Backend.XLA, Backend.TRITON, Backend.REFERENCE)] == [64, 16, 16]


@pytest.mark.parametrize("name", ["num_blocks", "block_size", "kv_heads", "head_dim"])
def test_sizes_below_one_are_refused(name: str) -> None:
    sizes = {"num_blocks": 7, "block_size": 16, "kv_heads": 2, "head_dim": 8, name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0"):
        pool_spec(Backend.XLA, dtype="float32", platform="cpu", **sizes)


def test_another_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="'float16'"):
        spec(Backend.XLA, "float16")


def test_storing_rounds_to_bfloat16_bits_and_reading_undoes_it() -> None:
    values = np.array([1.0, -2.5, 1.0 + 2.0**-9, 3e38], np.float32)
    stored = jax.jit(stored_as, static_argnums=1)(values, np.dtype("uint16"))
    assert stored.dtype == np.uint16
    assert stored[:2].tolist() == [0x3F80, 0xC020]
    back = jax.jit(read_as_float32)(stored)
    assert back.dtype == np.float32
    assert back[:3].tolist() == [1.0, -2.5, 1.0]
    same = jax.jit(stored_as, static_argnums=1)(values, np.dtype("float32"))
    assert (jax.jit(read_as_float32)(same) == values).all()
