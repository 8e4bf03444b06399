"""The Triton kernels lower for CUDA and ROCm, without either being here."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from pallas_kernels.backend import Backend
from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.ragged_attention import attention_work
from pallas_kernels.ragged_attention.triton import attend
from pallas_kernels.target import Target, assume_target
from pallas_kernels.write_kv.triton import write

PLATFORMS = pytest.mark.parametrize("platform", ["cuda", "rocm"])
SHAPES = {  # name: T, S, H, K, D, window, softcap, dtype; kernels expected
    "decode-128-g4": (64, 64, 32, 8, 128, None, None, "bfloat16", ["decode_split", "decode_merge"]),
    "decode-full-batch": (512, 512, 32, 8, 128, None, None, "bfloat16", ["decode"]),
    "decode-64-g7-window": (8, 8, 14, 2, 64, 4096, None, "bfloat16", ["decode_split", "decode_merge"]),
    "mixed-128-g4": (512, 64, 32, 8, 128, None, None, "bfloat16", ["mixed", "decode_split", "decode_merge"]),
    "prefill-128-g4": (2048, 8, 32, 8, 128, None, None, "bfloat16", ["mixed", "decode_split", "decode_merge"]),
    "mixed-64-g7-window": (512, 511, 14, 2, 64, 128, None, "bfloat16", ["mixed", "decode"]),
    "mixed-80-softcap": (256, 16, 8, 8, 80, None, 50.0, "float32", ["mixed", "decode_split", "decode_merge"]),
}


def pretend(platform: str) -> AbstractContextManager[object]:
    """From jax 0.11 the lowering asks the device for its architecture: an abstract one answers."""
    if tuple(int(n) for n in jax.__version__.split(".")[:2]) < (0, 11):
        return nullcontext()
    kind = {"cuda": "NVIDIA H100", "rocm": "gfx942"}[platform]
    device = AbstractDevice(device_kind=kind, num_cores=None, platform="gpu")
    return use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device))


def kernels_of(text: str) -> list[str]:
    """The names of the Triton kernels in a lowered module, in order."""
    calls = re.findall(r"custom_call @__gpu\$xla\.gpu\.triton\(.*", text)
    return [re.search(r'name = "(\w+)"', call).group(1) for call in calls]  # pyright: ignore[reportOptionalMemberAccess]


@PLATFORMS
@pytest.mark.parametrize("name", SHAPES)
def test_attention_lowers(platform: str, name: str) -> None:
    tokens, rows, heads, kv_heads, head_dim, window, softcap, dtype, kernels = SHAPES[name]
    of = jax.ShapeDtypeStruct
    pool = of((4096, kv_heads, 16, head_dim), jnp.dtype(dtype))

    def run(q, k, v, cu_q_lens, kv_lens, block_tables):
        work = attention_work(
            cu_q_lens,
            kv_lens,
            block_tables,
            num_tokens=tokens,
            block_size=16,
            window=window,
            backend=Backend.TRITON,
        )
        return attend(q, LayerPool(k=k, v=v, dtype=dtype), work, scale=0.1, softcap=softcap, sinks=None)

    q = of((tokens, heads, head_dim), jnp.dtype(dtype))
    ints = [of(shape, jnp.dtype(jnp.int32)) for shape in ((rows + 1,), (rows,), (rows, 512))]
    with pretend(platform), assume_target(Target(platform=platform)):
        text = jax.jit(run).trace(q, pool, pool, *ints).lower(lowering_platforms=(platform,)).as_text()
    assert kernels_of(text) == kernels
    # the decode kernel completes the mixed kernel's output in place
    assert text.count("output_operand_alias<") == (1 if "mixed" in kernels else 0)


@PLATFORMS
def test_write_lowers_in_place(platform: str) -> None:
    of = jax.ShapeDtypeStruct
    pool, new = of((64, 8, 16, 128), jnp.dtype(jnp.bfloat16)), of((100, 8, 128), jnp.dtype(jnp.bfloat16))

    def run(k_pool, v_pool, k, v, slots):
        return write(LayerPool(k=k_pool, v=v_pool, dtype="bfloat16"), k, v, slots, rope=None)

    arrays = (pool, pool, new, new, of((100,), jnp.dtype(jnp.int32)))
    with pretend(platform), assume_target(Target(platform=platform)):
        text = jax.jit(run, donate_argnums=(0, 1)).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
    assert kernels_of(text) == ["write_kv"]
    assert re.findall(r"output_tuple_indices = \[(\d)\], operand_index = (\d)", text) == [("0", "3"), ("1", "4")]
