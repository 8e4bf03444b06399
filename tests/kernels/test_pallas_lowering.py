"""The Triton kernels lower for CUDA and ROCm, without either being here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from absent_device import absent_device

from pallas_kernels.backend import Backend
from pallas_kernels.grouped_matmul import grouped_matmul
from pallas_kernels.pool_spec import DTYPES, pool_spec
from pallas_kernels.ragged_attention import attention_work, ragged_attention
from pallas_kernels.ragged_attention.tuning import SHIPPED
from pallas_kernels.target import Target, assume_target
from pallas_kernels.tuning import NO_TUNING, Entry, Fact, Table, facts_of
from pallas_kernels.write_kv import write_kv

KINDS = {"cuda": "NVIDIA H200", "rocm": "gfx942"}
PLATFORMS = pytest.mark.parametrize("platform", ["cuda", "rocm"])
SPLIT = ["decode_split", "decode_merge"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Static facts of an attention call."""

    tokens: int
    rows: int
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    window: int | None = None
    softcap: float | None = None
    dtype: str = "bfloat16"


SHAPES = {  # name: shape, kernels expected
    "decode-128-g4": (Shape(tokens=64, rows=64), SPLIT),
    "decode-full-batch": (Shape(tokens=512, rows=512), ["decode"]),
    "decode-64-g7-window": (Shape(tokens=8, rows=8, heads=14, kv_heads=2, head_dim=64, window=4096), SPLIT),
    "mixed-128-g4": (Shape(tokens=512, rows=64), ["mixed", *SPLIT]),
    "prefill-128-g4": (Shape(tokens=2048, rows=8), ["mixed", *SPLIT]),
    "mixed-64-g7-window": (
        Shape(tokens=512, rows=511, heads=14, kv_heads=2, head_dim=64, window=128),
        ["mixed", "decode"],
    ),
    "mixed-80-softcap": (
        Shape(tokens=256, rows=16, heads=8, head_dim=80, softcap=50.0, dtype="float32"),
        ["mixed", *SPLIT],
    ),
}


def kernels_of(text: str) -> list[str]:
    """The names of the Triton kernels in a lowered module, in order."""
    calls = re.findall(r"custom_call @__gpu\$xla\.gpu\.triton\(.*", text)
    return [re.search(r'name = "(\w+)"', call).group(1) for call in calls]  # pyright: ignore[reportOptionalMemberAccess]


def lower(target: Target, shape: Shape, table: Table = NO_TUNING) -> str:
    """The module of one attention call on a target that is not here."""
    of = jax.ShapeDtypeStruct
    pool = pool_spec(
        Backend.TRITON,
        num_blocks=4096,
        block_size=16,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        dtype=shape.dtype,
        platform=target.platform,
    ).abstract()

    def run(q, pool, cu_q_lens, kv_lens, block_tables):
        work = attention_work(
            cu_q_lens,
            kv_lens,
            block_tables,
            num_tokens=shape.tokens,
            block_size=16,
            window=shape.window,
            backend=Backend.TRITON,
            tuning=table,
        )
        return ragged_attention(q, pool, work, scale=0.1, softcap=shape.softcap)

    q = of((shape.tokens, shape.heads, shape.head_dim), jnp.dtype(jnp.bfloat16))
    ints = [of(size, jnp.dtype(jnp.int32)) for size in ((shape.rows + 1,), (shape.rows,), (shape.rows, 512))]
    with absent_device(KINDS[target.platform]), assume_target(target):
        return jax.jit(run).trace(q, pool, *ints).lower(lowering_platforms=(target.platform,)).as_text()


@PLATFORMS
@pytest.mark.parametrize("name", SHAPES)
def test_attention_lowers(platform: str, name: str) -> None:
    shape, kernels = SHAPES[name]
    text = lower(Target(platform=platform), shape)
    assert kernels_of(text) == kernels
    # the decode kernel completes the mixed kernel's output in place
    assert text.count("output_operand_alias<") == (1 if "mixed" in kernels else 0)


@PLATFORMS
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_lowers_over_every_pool(platform: str, dtype: str) -> None:
    shape = Shape(tokens=256, rows=8, heads=16, kv_heads=2, head_dim=80, window=4096, softcap=30.0, dtype=dtype)
    assert kernels_of(lower(Target(platform=platform), shape)) == ["mixed", "decode_split", "decode_merge"]


STEPS = {"decode": (64, 64), "mixed": (128, 64), "prefill": (512, 8)}


def facts_for(entry: Entry, platform: str) -> dict[str, Fact]:
    """A call that the entry asks for: its first case and dtype, its largest head."""
    when = dict(entry.when)
    return facts_of(
        Target(platform=platform, kind=KINDS[platform]),
        case=when.get("case", ("mixed",))[0],
        dtype=when.get("dtype", ("float32",))[0],
        head_dim=when.get("max_head_dim", (128,))[0],
        group=4,
    )


@pytest.mark.parametrize(
    ("platform", "entry"),
    [(platform, entry) for platform in KINDS for entry in SHIPPED.entries if entry.fits(facts_for(entry, platform))],
)
def test_every_shipped_entry_lowers_where_it_holds(platform: str, entry: Entry) -> None:
    facts = facts_for(entry, platform)
    case, dtype, head_dim = str(facts["case"]), str(facts["dtype"]), int(facts["head_dim"])
    tokens, rows = STEPS[case]
    shape = Shape(tokens=tokens, rows=rows, heads=8, kv_heads=2, head_dim=head_dim, dtype=dtype)
    rest = [other for other in SHIPPED.entries if not other.when]  # a step of any case decodes too
    text = lower(Target(platform=platform, kind=KINDS[platform]), shape, Table(entries=(entry, *rest)))
    name = "mixed" if case != "decode" else kernels_of(text)[0]
    call = next(call for call in re.findall(r"custom_call @__gpu\$xla.*", text) if f'name = "{name}"' in call)
    for value in ("num_stages", "num_warps"):
        assert f"{value} = {dict(entry.use)[value]} : i32" in call


@PLATFORMS
@pytest.mark.parametrize("pairs", [None, 16, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_write_lowers_to_one_kernel_in_place(platform: str, dtype: str, pairs: int | None) -> None:
    of = jax.ShapeDtypeStruct
    spec = pool_spec(
        Backend.TRITON, num_blocks=64, block_size=16, kv_heads=8, head_dim=128, dtype=dtype, platform=platform
    )
    new = of((100, 8, 128), jnp.dtype(jnp.float32))
    rope = None if pairs is None else (of((100, pairs), jnp.dtype(jnp.float32)),) * 2

    def run(pool, k, v, slots, rope):
        return write_kv(pool, k, v, slots, rope=rope, backend=Backend.TRITON)

    arrays = (spec.abstract(), new, new, of((100,), jnp.dtype(jnp.int32)), rope)
    with absent_device(KINDS[platform]), assume_target(Target(platform=platform)):
        text = jax.jit(run, donate_argnums=0).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
    assert kernels_of(text) == ["write_kv"]
    first = 3 if pairs is None else 5
    aliases = [(str(i), str(first + i)) for i in range(2 if spec.scale_shape is None else 4)]
    assert re.findall(r"output_tuple_indices = \[(\d)\], operand_index = (\d)", text) == aliases
    # the rotation and the scales are the kernel's: nothing is computed around it
    assert re.findall(r"stablehlo\.(multiply|maximum|divide|concatenate)", text) == []


@PLATFORMS
@pytest.mark.parametrize(("rows", "dtype"), [(2, "bfloat16"), (128, "float16"), (8192, "bfloat16"), (64, "float32")])
def test_grouped_matmul_lowers_to_one_kernel(platform: str, rows: int, dtype: str) -> None:
    of = jax.ShapeDtypeStruct
    x, w = of((rows, 4096), jnp.dtype(jnp.float32)), of((8, 14336, 4096), jnp.dtype(dtype))
    run = partial(grouped_matmul, backend=Backend.TRITON)
    with absent_device(KINDS[platform]), assume_target(Target(platform=platform)):
        lowered = jax.jit(run).trace(x, w, of((8,), jnp.dtype(jnp.int32))).lower(lowering_platforms=(platform,))
    assert kernels_of(lowered.as_text()) == ["grouped_matmul"]
