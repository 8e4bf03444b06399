"""The writers of one pass, Triton (interpreted) and native, against the reference: values, scales, their own slots."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from native_backend import need

from pallas_kernels.backend import Backend
from pallas_kernels.layer_pool import LayerPool, decode
from pallas_kernels.pool_spec import DTYPES, pool_spec
from pallas_kernels.target import Target
from pallas_kernels.tuning import Entry, Table
from pallas_kernels.write_kv import write_kv
from pallas_kernels.write_kv.tuning import Tuning, tuning_for

BACKENDS = (Backend.TRITON, Backend.NATIVE)
# the native backend serves no pool of float16
PAIRS = [(backend, dtype) for backend in BACKENDS for dtype in DTYPES if f"{backend} {dtype}" != "native float16"]
TOKENS, HEADS, BLOCK, BLOCKS = 19, 2, 16, 5
# one step of a pool dtype at a value of magnitude about 1: how far a rounding may fall the other way
STEPS = {"float32": 1e-6, "bfloat16": 2**-7, "float16": 2**-10}


def poisoned(dtype: str, head_dim: int) -> LayerPool:
    """A pool whose every number and scale is NaN (127 in int8, which has none), bit for bit known."""
    spec = pool_spec(
        Backend.TRITON, num_blocks=BLOCKS, block_size=BLOCK, kv_heads=HEADS, head_dim=head_dim, dtype=dtype
    )
    nan = np.array(127 if dtype == "int8" else np.nan).astype(jnp.dtype(dtype)).view(spec.storage)[()]
    return jax.tree.map(
        lambda array: np.full(array.shape, nan if array.dtype == spec.storage else np.nan, array.dtype),
        spec.abstract(),
    )


def step(head_dim: int, given: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """k, v and slots; some tokens are padding."""
    rng = np.random.default_rng(0)
    k, v = rng.normal(size=(2, TOKENS, HEADS, head_dim)).astype(np.float32).astype(jnp.dtype(given))
    slots = rng.permutation(np.arange(BLOCK, BLOCK * BLOCKS))[:TOKENS].astype(np.int32)
    slots[2::5] = 0
    return k, v, slots


def rope_table(pairs: int) -> tuple[np.ndarray, np.ndarray]:
    angles = np.random.default_rng(1).uniform(-4, 4, size=(TOKENS, pairs)).astype(np.float32)
    return np.cos(angles), np.sin(angles)


def write(backend: Backend, pool: LayerPool, *args: np.ndarray, **options: Any) -> LayerPool:
    """write_kv compiled once, run once, as attention_steps.run; pools go in and come out in the reference's layout."""
    need(backend)

    def laid_out(pool: LayerPool) -> LayerPool:
        return replace(pool, k=np.swapaxes(pool.k, 2, 3)) if backend.transposes_keys else pool  # pyright: ignore[reportArgumentType]

    run = jax.jit(partial(write_kv, backend=backend), compiler_options={"xla_backend_optimization_level": 0})
    return laid_out(jax.tree.map(np.asarray, run(laid_out(pool), *args, **options)))


@lru_cache(maxsize=50)
def wanted(dtype: str, head_dim: int, pairs: int, given: str) -> LayerPool:
    """What the reference writes, for all backends."""
    return write(
        Backend.REFERENCE,
        poisoned(dtype, head_dim),
        *step(head_dim, given),
        rope=rope_table(pairs) if pairs else None,
    )


@pytest.mark.parametrize("given", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("head_dim", "rotary"), [(64, "none"), (80, "half"), (96, "whole"), (112, "half"), (128, "whole")]
)
@pytest.mark.parametrize(("backend", "dtype"), PAIRS)
def test_equals_the_reference(backend: Backend, dtype: str, head_dim: int, rotary: str, given: str) -> None:
    k, v, slots = step(head_dim, given)
    pairs = {"none": 0, "half": head_dim // 4, "whole": head_dim // 2}[rotary]
    rope = rope_table(pairs) if pairs else None
    start = poisoned(dtype, head_dim)
    got, want = write(backend, start, k, v, slots, rope=rope), wanted(dtype, head_dim, pairs, given)
    blocks, offsets = np.divmod(slots[slots > 0], BLOCK)
    # what no token named is as it was, the null block too
    for array, before in zip(jax.tree.leaves(got), jax.tree.leaves(start), strict=True):
        untouched = np.ones(array.shape[:3], bool)
        untouched[blocks, :, offsets] = False
        assert np.asarray(array)[untouched].tobytes() == before[untouched].tobytes()
    for name in ("k", "v"):
        ours, theirs = (np.asarray(getattr(pool, name))[blocks, :, offsets] for pool in (got, want))
        if dtype == "int8":
            assert np.abs(ours.astype(np.int32) - theirs.astype(np.int32)).max() <= 1
        elif dtype == "float8_e4m3fn":
            assert np.abs(ours.view(np.int8).astype(np.int32) - theirs.view(np.int8)).max() <= 1
        elif name == "v" or rope is None:
            assert ours.tobytes() == theirs.tobytes()
        else:
            ours, theirs = (np.asarray(decode(jnp.asarray(x), dtype)) for x in (ours, theirs))
            np.testing.assert_allclose(ours, theirs, rtol=STEPS[dtype], atol=1e-6)
        if getattr(start, f"{name}_scale") is not None:
            ours, theirs = (np.asarray(getattr(pool, f"{name}_scale"))[blocks, :, offsets] for pool in (got, want))
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_codes_equal_the_reference_bit_for_bit_without_rope(dtype: str, backend: Backend) -> None:
    k, v, slots = step(96, "float32")
    got, want = (write(b, poisoned(dtype, 96), k, v, slots) for b in (backend, Backend.REFERENCE))
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.asarray(ours)[1:].tobytes() == np.asarray(theirs)[1:].tobytes()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_known_rotation_and_known_codes(backend: Backend) -> None:
    """A quarter turn takes (low, high) to (-high, low); 127 steps of the largest; halves go to the even code."""
    k = np.zeros((1, HEADS, 64), np.float32)
    k[0, :, 0], k[0, :, 1], k[0, :, 32], k[0, :, 33], k[0, :, 34] = 127, 2.5, 64, 3.5, -0.5
    quarter = np.zeros((1, 32), np.float32), np.ones((1, 32), np.float32)
    pool = write(backend, poisoned("int8", 64), k, k, np.array([17], np.int32), rope=quarter)
    keys, values = np.asarray(pool.k)[1, 0, 1], np.asarray(pool.v)[1, 0, 1]
    assert (keys[0], keys[1], keys[2], keys[32], keys[33]) == (-64, -4, 0, 127, 2)
    assert (values[0], values[1], values[32], values[33], values[34]) == (127, 2, 64, 4, 0)
    assert np.asarray(pool.k_scale)[1, 0, 1] == np.asarray(pool.v_scale)[1, 0, 1] == 1.0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_zeros_have_the_scale_zero_and_what_is_broken_the_scale_nan(dtype: str, backend: Backend) -> None:
    k = np.ones((4, HEADS, 64), np.float32)
    k[0], k[1, 0, 50], k[2, 1, 3] = 0, np.nan, -np.inf
    slots = np.array([20, 21, 22, 23], np.int32)
    rope = np.ones((4, 16), np.float32), np.zeros((4, 16), np.float32)
    pool = write(backend, poisoned(dtype, 64), k, np.ones_like(k), slots, rope=rope)
    scales = np.asarray(pool.k_scale)[1, :, 4:8].T  # [token, head]
    one = np.float32(1) / np.float32({"int8": 127, "float8_e4m3fn": 448}[dtype])
    np.testing.assert_array_equal(scales, [[0, 0], [np.nan, one], [one, np.nan], [one, one]])
    stored = np.asarray(decode(jnp.asarray(pool.k), dtype))[1, :, 4:8]
    assert (stored[:, 0] == 0).all()
    assert np.isfinite(stored).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rounds_float32_to_the_pool(backend: Backend) -> None:
    k = np.full((1, HEADS, 64), 1.00390625, np.float32)  # half way between 1 and the next bfloat16: ties to even
    pool = write(backend, poisoned("bfloat16", 64), k, -k, np.array([17], np.int32))
    assert np.asarray(pool.k)[1, 0, 1].tolist() == [0x3F80] * 64
    assert np.asarray(pool.v)[1, 0, 1].tolist() == [0xBF80] * 64


def test_tuning_takes_few_tokens_a_program_in_small_steps() -> None:
    cuda, rocm = Target(platform="cuda", kind="NVIDIA H200"), Target(platform="rocm", kind="gfx942")
    facts = {"head_dim": 128, "dtype": "bfloat16"}
    assert tuning_for(cuda, tokens=64, **facts) == Tuning(token_tile=4, num_warps=2)
    assert tuning_for(rocm, tokens=512, **facts) == Tuning(token_tile=4, num_warps=1)
    assert tuning_for(rocm, tokens=2048, **facts) == Tuning(token_tile=16, num_warps=4)
    mine = Table(entries=(Entry(section="write_kv", use=(("token_tile", 8), ("num_warps", 8))),))
    assert tuning_for(cuda, tokens=64, table=mine, **facts) == Tuning(token_tile=8, num_warps=8)


@pytest.mark.parametrize(
    ("use", "message"),
    [({"token_tile": 3, "num_warps": 1}, "token_tile is 3"), ({"token_tile": 4, "warps": 1}, "num_warps missing")],
)
def test_an_entry_that_is_no_tuning_is_refused(use: dict[str, int], message: str) -> None:
    table = Table(entries=(Entry(section="write_kv", use=tuple(use.items())),))
    with pytest.raises(ValueError, match=message):
        tuning_for(Target(platform="cpu"), tokens=1, head_dim=64, dtype="int8", table=table)


def test_refuses() -> None:
    pool, new, slots = jnp.zeros((2, 1, 48, 64)), jnp.zeros((1, 1, 64)), jnp.zeros(1, jnp.int32)
    with pytest.raises(ValueError, match="block_size is 48"):
        write_kv(LayerPool(k=pool, v=pool, dtype="float32"), new, new, slots, backend=Backend.TRITON)
    with pytest.raises(ValueError, match="platform is 'tpu'"):
        Target(platform="tpu")
