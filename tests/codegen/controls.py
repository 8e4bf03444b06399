"""Programs that must not pass: they show that the gates can fail."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from codegen.kernels import Attention, Write, attention_program, write_program
from codegen.program import Program
from jax import Array, lax
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.launch import launch
from pallas_kernels.tuning import Entry, Table

CONTROLS = (
    "too-much-lds",
    "no-donation",
    "no-kernel",
    "sorted-vocabulary",
    "widened-weight",
    "no-matrix-unit",
    "no-wide-loads",
    "spill",
)


def control_program(name: str) -> Program:
    """The program of this name. Raises KeyError for an unknown one."""
    match name:
        case "too-much-lds":  # two tiles of 256 keys by 256 dims of bfloat16 in flight: over 64 KiB and over 227 KiB
            return attention_program(Attention(case="decode", dtype="bfloat16", head_dim=256), tuning=_huge())
        case "no-donation":
            return replace(write_program(Write(dtype="bfloat16")), donate=())
        case "no-kernel":
            arguments = (jax.ShapeDtypeStruct((16, 16), jnp.float32),)
            return Program(function=jnp.tanh, arguments=arguments, kernels=("decode",))
        case "sorted-vocabulary":  # what XLA makes of the k largest of a long row
            logits = jax.ShapeDtypeStruct((8, 32000), jnp.float32)
            return Program(function=partial(_largest, k=256), arguments=(logits,), unsorted=32000)
        case "widened-weight":  # what a product that does not take int8 itself would do
            arguments = tuple(
                jax.ShapeDtypeStruct((n, 256), dtype) for n, dtype in ((64, jnp.bfloat16), (512, jnp.int8))
            )
            return Program(function=_widened, arguments=arguments)
        case "no-matrix-unit":  # the matrix units sum up at least 16 products; eight are left to plain arithmetic
            return dots(rows=8, depth=8, columns=64)
        case "no-wide-loads":  # rows of 255 elements begin at odd addresses
            return dots(rows=64, depth=64, columns=64, width=255)
        case "spill":  # 128 x 256 sums are 512 registers of each of 64 lanes, all there are
            return dots(rows=128, depth=32, columns=256)
    raise KeyError(name)


def _huge() -> Table:
    use = {"q_tile": 16, "kv_tile": 256, "num_warps": 4, "num_stages": 3}
    return Table(entries=(Entry(section="ragged_attention", use=tuple(use.items())),))


def _widened(x: Array, w: Array) -> Array:
    return x @ lax.optimization_barrier(w.astype(x.dtype)).T


def _largest(x: Array, *, k: int) -> Array:
    return lax.top_k(x, k)[1]


def _dot_kernel(a: Any, b: Any, out: Any, *, rows: int, depth: int, columns: int) -> None:
    row, column = lax.iota(jnp.int32, rows)[:, None], lax.iota(jnp.int32, columns)[None, :]

    def step(index: Array, sums: Array) -> Array:
        inner = index * jnp.int32(depth) + lax.iota(jnp.int32, depth)
        left, right = plgpu.load(a.at[row, inner[None, :]]), plgpu.load(b.at[inner[:, None], column])
        return sums + lax.dot_general(left, right, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)

    sums = lax.fori_loop(0, 256 // depth, step, jnp.zeros((rows, columns), jnp.float32))
    plgpu.store(out.at[row, column], sums)


def dots(*, rows: int, depth: int, columns: int, width: int = 256) -> Program:
    """A product [rows, 256] by [256, columns] of wider arrays, `depth` at a time, by one warp."""
    array = jax.ShapeDtypeStruct((256, width), jnp.bfloat16)

    def run(a, b):
        kernel = partial(_dot_kernel, rows=rows, depth=depth, columns=columns)
        result = jax.ShapeDtypeStruct((256, 256), jnp.float32)
        return launch(kernel, [a, b], [result], name="dots", grid=(1,), num_warps=1, num_stages=1)[0]

    return Program(function=run, arguments=(array, array), kernels=("dots",))
