"""The Triton pool writer, interpreted, against plain numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.target import Target
from pallas_kernels.write_kv.triton import write


def compiled():
    def run(k_pool, v_pool, k, v, slots):
        dtype = "float32" if k_pool.dtype == jnp.float32 else "bfloat16"
        pool = write(LayerPool(k=k_pool, v=v_pool, dtype=dtype), k, v, slots, rope=None)
        return pool.k, pool.v

    return jax.jit(run)


@pytest.mark.parametrize(
    ("tokens", "kv_heads", "head_dim", "storage"),
    [(1, 1, 64, "float32"), (17, 2, 80, "float32"), (33, 3, 128, "uint16"), (16, 1, 96, "bfloat16")],
)
def test_writes_only_its_slots(tokens: int, kv_heads: int, head_dim: int, storage: str) -> None:
    rng = np.random.default_rng(0)
    shape = (5, kv_heads, 16, head_dim)
    bits = np.uint32 if storage == "float32" else np.uint16
    # every slot starts as NaN, bit for bit known
    start = np.full(shape, 0x7FC00000 if storage == "float32" else 0x7FC0, bits).view(jnp.dtype(storage))
    slots = rng.permutation(np.arange(1, 80))[:tokens].astype(np.int32)
    slots[tokens // 2 + 1 :: 3] = 0  # padding
    new = {name: rng.normal(size=(tokens, kv_heads, head_dim)).astype(np.float32) for name in "kv"}
    if storage != "float32":
        new = {name: values.astype(jnp.bfloat16) for name, values in new.items()}
    got = compiled()(start, start, new["k"], new["v"], slots)
    for pool, values in zip(got, new.values(), strict=True):
        want = start.copy().view(bits)
        for slot, value in zip(slots, values, strict=True):
            if slot > 0:
                want[slot // 16, :, slot % 16] = value.view(bits)
        np.testing.assert_array_equal(np.asarray(pool).view(bits), want)


def test_rounds_float32_to_the_pool() -> None:
    pool = np.zeros((2, 1, 16, 64), np.uint16)
    k = np.full((1, 1, 64), 1.00390625, np.float32)  # half way between 1 and the next bfloat16: ties to even
    k_pool, v_pool = compiled()(pool, pool, k, -k, np.array([17], np.int32))
    assert np.asarray(k_pool)[1, 0, 1].tolist() == [0x3F80] * 64
    assert np.asarray(v_pool)[1, 0, 1].tolist() == [0xBF80] * 64
    assert np.count_nonzero(np.asarray(k_pool)) == 64


def test_refuses() -> None:
    pool, new, slots = jnp.zeros((2, 1, 48, 64)), jnp.zeros((1, 1, 64)), jnp.zeros(1, jnp.int32)
    with pytest.raises(ValueError, match="block_size is 48"):
        write(LayerPool(k=pool, v=pool, dtype="float32"), new, new, slots, rope=None)
    with pytest.raises(ValueError, match="platform is 'tpu'"):
        Target(platform="tpu")
