"""The shipped Pallas kernels as programs of their public ops: a grid of cases, dtypes and sizes, and odd shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from codegen.program import Program

from pallas_kernels.backend import Backend
from pallas_kernels.grouped_matmul import grouped_matmul
from pallas_kernels.int8 import Int8Weight
from pallas_kernels.pool_spec import pool_spec
from pallas_kernels.ragged_attention import attention_work, ragged_attention
from pallas_kernels.target import current_target
from pallas_kernels.tuning import NO_TUNING, Fact, Table
from pallas_kernels.write_kv import write_kv

# of the grid; prefill of the pairs left out is cut like mixed, and so the same kernel
HEAD_DIMS: Mapping[tuple[str, str], tuple[int, ...]] = MappingProxyType(
    {
        ("decode", "float32"): (64, 128, 256),
        ("decode", "bfloat16"): (64, 128, 256),
        ("decode", "float16"): (128, 256),
        ("decode", "int8"): (64, 128, 256),
        ("decode", "float8_e4m3fn"): (64, 128, 256),
        ("mixed", "float32"): (64, 256),
        ("mixed", "bfloat16"): (64, 128, 256),
        ("mixed", "float16"): (128, 256),
        ("mixed", "int8"): (128, 256),
        ("mixed", "float8_e4m3fn"): (128, 256),
        ("prefill", "bfloat16"): (64, 128),
        ("prefill", "float16"): (128,),
    }
)
POOL_DTYPES = tuple(dict.fromkeys(dtype for _, dtype in HEAD_DIMS))
SIZES = {"decode": (64, 64), "mixed": (512, 64), "prefill": (2048, 8)}  # T, S
NUM_BLOCKS, CONTEXT = 4096, 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """A call of `ragged_attention`; group: query heads of a kv head."""

    case: str
    dtype: str
    head_dim: int = 128
    group: int = 4
    kv_heads: int = 8
    block_size: int = 16
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    rows: int | None = None

    @property
    def name(self) -> str:
        """Unique, and short."""
        extras = [f"g{self.group}", f"p{self.block_size}"] if (self.group, self.block_size) != (4, 16) else []
        extras += [
            f"{word}{value}" for word, value in (("w", self.window), ("cap", self.softcap), ("s", self.rows)) if value
        ]
        extras += ["sinks"] if self.sinks else []
        return "-".join([self.case, self.dtype, f"d{self.head_dim}", *extras])

    @property
    def facts(self) -> dict[str, Fact]:
        """What the shipped table is asked by."""
        return {"case": self.case, "dtype": self.dtype, "head_dim": self.head_dim, "group": self.group}


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A call of `write_kv`; rotated: how many dimensions of a key's head are, 0 for none."""

    dtype: str
    head_dim: int = 128
    rotated: int = 128
    tokens: int = 64

    @property
    def name(self) -> str:
        """Unique, and short."""
        rope = f"-rope{self.rotated}" if self.rotated else ""
        return f"write-{self.dtype}-d{self.head_dim}{rope}-t{self.tokens}"

    @property
    def facts(self) -> dict[str, Fact]:
        """What the shipped table is asked by."""
        return {"tokens": self.tokens, "head_dim": self.head_dim, "dtype": self.dtype}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouped:
    """A call of `grouped_matmul`: rows M by experts' weights [X, B, A]; quantised: to int8, widened to `dtype`."""

    rows: int
    outs: int
    ins: int
    dtype: str = "bfloat16"
    experts: int = 8
    quantised: bool = False

    @property
    def name(self) -> str:
        """Unique, and short."""
        return (
            f"grouped-{'int8' if self.quantised else self.dtype}-m{self.rows}-x{self.experts}-b{self.outs}-a{self.ins}"
        )

    @property
    def facts(self) -> dict[str, Fact]:
        """What the shipped table is asked by."""
        share = -(-self.rows // self.experts)
        sizes = {"rows": self.rows, "share": share, "experts": self.experts, "outs": self.outs, "ins": self.ins}
        return {**sizes, "dtype": self.dtype}


Case = Attention | Write | Grouped
SECTIONS: Mapping[type[Case], str] = MappingProxyType(
    {Attention: "ragged_attention", Write: "write_kv", Grouped: "grouped_matmul"}
)
_ODD: tuple[dict[str, Any], ...] = (
    {"head_dim": 64, "group": 7, "kv_heads": 2, "window": 4096},
    {"head_dim": 80, "group": 1, "kv_heads": 32},
    {"head_dim": 96, "softcap": 50.0, "block_size": 32},
    {"head_dim": 112, "group": 16, "kv_heads": 2, "block_size": 64},
    {"head_dim": 64, "group": 8, "window": 128, "sinks": True},
    {"head_dim": 64, "group": 71, "kv_heads": 1},  # all of Falcon-7B's query heads share one kv head
)
_ATTENTION = [
    *(Attention(case=case, dtype=dtype, head_dim=d) for (case, dtype), dims in HEAD_DIMS.items() for d in dims),
    *(Attention(case=case, dtype="bfloat16", **shape) for case, shape in product(("decode", "mixed"), _ODD)),
    Attention(case="decode", dtype="bfloat16", rows=512),  # enough rows: no split, no merge
]
_WRITES = [
    *(Write(dtype=dtype) for dtype in POOL_DTYPES),
    *(Write(dtype=dtype, head_dim=80, rotated=0, tokens=2048) for dtype in POOL_DTYPES),
    Write(dtype="bfloat16", tokens=2048),
    Write(dtype="int8", rotated=64, tokens=2048),
]
_MIXTRAL = ((28672, 4096), (4096, 14336))  # outs and ins of gate and up in one, and of down
_GROUPED = [
    *(Grouped(rows=rows, outs=outs, ins=ins) for rows, (outs, ins) in product((2, 32, 512, 4096), _MIXTRAL)),
    *(Grouped(rows=rows, outs=outs, ins=ins, quantised=True) for rows, (outs, ins) in product((2, 4096), _MIXTRAL)),
    Grouped(rows=32, outs=28672, ins=4096, dtype="float16"),
    Grouped(rows=32, outs=28672, ins=4096, dtype="float32"),
]
KERNELS: Mapping[str, Case] = MappingProxyType({case.name: case for case in (*_ATTENTION, *_WRITES, *_GROUPED)})


def kernel_program(case: Case) -> Program:
    """The op of a case, jitted alone."""
    match case:
        case Attention():
            return attention_program(case)
        case Write():
            return write_program(case)
        case Grouped():
            return grouped_program(case)


def _pool(dtype: str, *, kv_heads: int, head_dim: int, block_size: int = 16):
    return pool_spec(
        Backend.TRITON,
        num_blocks=NUM_BLOCKS,
        block_size=block_size,
        kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        platform=current_target().platform,
    ).abstract()


def attention_program(case: Attention, *, tuning: Table = NO_TUNING) -> Program:
    """`ragged_attention` and the maps it needs. tuning: asked before the shipped table."""
    of = jax.ShapeDtypeStruct
    tokens, rows = (case.rows, case.rows) if case.rows else SIZES[case.case]
    heads = case.group * case.kv_heads
    of_q = jnp.dtype("float32" if case.dtype == "float32" else "bfloat16")

    def run(q, pool, cu_q_lens, kv_lens, block_tables, sinks):
        work = attention_work(
            cu_q_lens,
            kv_lens,
            block_tables,
            num_tokens=tokens,
            block_size=case.block_size,
            window=case.window,
            backend=Backend.TRITON,
            tuning=tuning,
        )
        return ragged_attention(q, pool, work, scale=0.1, softcap=case.softcap, sinks=sinks)

    ints = [of(shape, jnp.int32) for shape in ((rows + 1,), (rows,), (rows, CONTEXT // case.block_size))]
    pool = _pool(case.dtype, kv_heads=case.kv_heads, head_dim=case.head_dim, block_size=case.block_size)
    sinks = of((heads,), jnp.float32) if case.sinks else None
    return Program(
        function=run,
        arguments=(of((tokens, heads, case.head_dim), of_q), pool, *ints, sinks),
        kernels=("decode",) if tokens == rows else ("decode", "mixed"),
    )


def write_program(case: Write) -> Program:
    """`write_kv` into a pool that is given away."""
    of = jax.ShapeDtypeStruct
    new = of((case.tokens, 8, case.head_dim), jnp.float32)
    angles = of((case.tokens, case.rotated // 2), jnp.float32)

    def run(pool, k, v, slots, rope):
        return write_kv(pool, k, v, slots, rope=rope, backend=Backend.TRITON)

    return Program(
        function=run,
        arguments=(
            _pool(case.dtype, kv_heads=8, head_dim=case.head_dim),
            new,
            new,
            of((case.tokens,), jnp.int32),
            (angles, angles) if case.rotated else None,
        ),
        donate=(0,),
        kernels=("write_kv",),
        pool=0,
    )


def grouped_program(case: Grouped) -> Program:
    """`grouped_matmul` of rows that are float32, as layers have them."""
    of, shape = jax.ShapeDtypeStruct, (case.experts, case.outs, case.ins)

    def run(x, w, group_sizes):
        return grouped_matmul(x, w, group_sizes, backend=Backend.TRITON)

    w: Any = of(shape, jnp.dtype(case.dtype))
    if case.quantised:
        values: Any = of(shape, jnp.int8)
        scales: Any = of(shape[:2], jnp.float32)
        w = Int8Weight(values=values, scales=scales, dtype=case.dtype)

    return Program(
        function=run,
        arguments=(
            of((case.rows, case.ins), jnp.float32),
            w,
            of((case.experts,), jnp.int32),
        ),
        kernels=("grouped_matmul",),
    )
