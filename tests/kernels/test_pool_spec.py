"""Layouts, storage and sizes of one layer's pool."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from pallas_kernels.backend import Backend
from pallas_kernels.layer_pool import decode, encode
from pallas_kernels.pool_spec import PoolSpec, default_block_size, pool_spec


def spec(backend: Backend, dtype: str = "float32", platform: str = "cpu") -> PoolSpec:
    return pool_spec(backend, num_blocks=7, block_size=16, kv_heads=2, head_dim=8, dtype=dtype, platform=platform)


@pytest.mark.parametrize("backend", [Backend.XLA, Backend.NATIVE])
def test_cpu_backends_hold_keys_transposed(backend: Backend) -> None:
    assert spec(backend).k_shape == (7, 2, 8, 16)
    assert spec(backend).v_shape == (7, 2, 16, 8)


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
    assert {str(b): default_block_size(b) for b in Backend} == {"xla": 64, "triton": 16, "reference": 16, "native": 16}


@pytest.mark.parametrize("name", ["num_blocks", "block_size", "kv_heads", "head_dim"])
def test_sizes_below_one_are_refused(name: str) -> None:
    sizes = {"num_blocks": 7, "block_size": 16, "kv_heads": 2, "head_dim": 8, name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0"):
        pool_spec(Backend.XLA, dtype="float32", platform="cpu", **sizes)


def test_another_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="'float64'"):
        spec(Backend.XLA, "float64")


@pytest.mark.parametrize(("num_blocks", "fits"), [(131072, True), (131073, False), (262144, False), (262145, True)])
def test_bytes_that_gpu_kernels_cannot_address_are_refused(num_blocks: int, fits: bool) -> None:
    sizes = {"num_blocks": num_blocks, "block_size": 16, "kv_heads": 8, "head_dim": 128}  # 16 KiB a block
    for dtype in ("int8", "float8_e4m3fn"):
        for platform in ("cuda", "rocm"):
            if fits:
                pool_spec(Backend.TRITON, dtype=dtype, platform=platform, **sizes)
                continue
            with pytest.raises(
                ValueError, match=rf"num_blocks is {num_blocks}: .* at most 131072 blocks or at least 262145"
            ):
                pool_spec(Backend.TRITON, dtype=dtype, platform=platform, **sizes)
        pool_spec(Backend.XLA, dtype=dtype, platform="cpu", **sizes)
    pool_spec(Backend.TRITON, dtype="bfloat16", platform="cuda", **sizes)


def round_trip(values: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Stored form, decoded values, scales."""
    storage = spec(Backend.XLA, dtype).storage
    stored, scale = jax.jit(lambda x: encode(x, dtype, storage))(values)
    back = jax.jit(lambda x: decode(x, dtype))(stored)
    assert back.dtype == np.float32
    return np.asarray(stored), np.asarray(back), None if scale is None else np.asarray(scale)


def test_storing_rounds_to_bfloat16_bits_and_reading_undoes_it() -> None:
    values = np.array([[1.0, -2.5, 1.0 + 2.0**-9, 3e38]], np.float32)
    stored, back, scale = round_trip(values, "bfloat16")
    assert stored.dtype == np.uint16
    assert scale is None
    assert stored[0, :2].tolist() == [0x3F80, 0xC020]
    assert back[0, :3].tolist() == [1.0, -2.5, 1.0]
    assert (round_trip(values, "float32")[1] == values).all()
    assert round_trip(values[:, :3], "float16")[1].tolist() == [[1.0, -2.5, 1.0 + 2.0**-9]]


@pytest.mark.parametrize(("dtype", "largest", "error"), [("int8", 127, 0.5 / 127), ("float8_e4m3fn", 448, 2.0**-4)])
def test_scaled_values_come_back_within_half_a_step(dtype: str, largest: int, error: float) -> None:
    values = np.random.default_rng(0).normal(size=(20, 3, 64)).astype(np.float32) * np.float32(7)
    stored, back, scale = round_trip(values, dtype)
    assert stored.dtype == (np.int8 if dtype == "int8" else np.uint8)
    assert scale is not None
    top = np.abs(values).max(axis=-1)
    np.testing.assert_allclose(scale, top / largest, rtol=1e-6)
    bound = error * (np.abs(values) + 2.0**-9 * top[..., None] if dtype != "int8" else top[..., None])
    assert (np.abs(back * scale[..., None] - values) <= bound * 1.001).all()


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_zeros_stay_zeros_and_what_is_not_finite_is_seen(dtype: str) -> None:
    values = np.stack([np.zeros(8), np.full(8, np.nan), [np.inf] + [1.0] * 7, np.full(8, 1e-30)]).astype(np.float32)
    _, back, scale = round_trip(values, dtype)
    assert scale is not None
    assert back[0].tolist() == [0.0] * 8
    assert scale[0] == 0.0
    assert np.isnan(scale[1:3]).all()
    np.testing.assert_allclose(back[3] * scale[3], values[3], rtol=1e-2)
