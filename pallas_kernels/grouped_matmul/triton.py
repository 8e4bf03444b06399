"""Tiles of rows of one expert each, in Pallas-Triton for CUDA and ROCm; interpreted on CPU.

The grid is static: as many row tiles as any split of M rows into X groups can need. Which expert a tile belongs to is
computed on the device; tiles past the last one exit at once, so an idle expert's weights are never read.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.grouped_matmul.reference import logical_dtype
from pallas_kernels.grouped_matmul.tuning import Tuning, tuning_for
from pallas_kernels.int8 import Int8Weight
from pallas_kernels.launch import launch
from pallas_kernels.linear import dot
from pallas_kernels.target import current_target
from pallas_kernels.tuning import NO_TUNING, Table


def row_tiles(group_sizes: Array, *, num_rows: int, row_tile: int) -> Array:
    """i32[3, tiles]: the expert, first row and row count of every tile.

    The rows past the groups' sum make a group of their own, of "expert" X. Tiles past the end have count 0.
    """
    num_experts = group_sizes.shape[0]
    most_groups = min(num_experts + 1, num_rows)
    most = (num_rows + most_groups * (row_tile - 1)) // row_tile
    sizes = jnp.append(group_sizes, num_rows - jnp.sum(group_sizes, dtype=jnp.int32))
    tiles = (sizes + (row_tile - 1)) // row_tile
    tile_ends, row_ends = (jnp.cumsum(counts, dtype=jnp.int32) for counts in (tiles, sizes))
    tile = jnp.arange(most, dtype=jnp.int32)
    group = jnp.sum(tile_ends[None, :] <= tile[:, None], axis=1, dtype=jnp.int32)
    used, group = group <= num_experts, jnp.minimum(group, num_experts)
    offset = (tile - (tile_ends - tiles)[group]) * row_tile
    count = jnp.where(used, jnp.clip(sizes[group] - offset, 0, row_tile), 0)
    return jnp.stack([group, (row_ends - sizes)[group] + offset, count]).astype(jnp.int32)


def _multiply_kernel(tiles: Any, x_ref: Any, w_ref: Any, *refs: Any, tuning: Tuning) -> None:
    *scales, out = refs  # those of int8 weights, which are widened here
    num_experts, outs, ins = w_ref.shape
    column_tile, tile = pl.program_id(1), pl.program_id(2) * jnp.int32(tuning.band) + pl.program_id(0)
    last = jnp.int32(tiles.shape[1] - 1)
    at = jnp.minimum(tile, last)
    expert, first, count = tiles[0, at], tiles[1, at], tiles[2, at]

    @pl.when((count > jnp.int32(0)) & (tile <= last))
    def _() -> None:
        nth = lax.iota(jnp.int32, tuning.row_tile)
        column = column_tile * jnp.int32(tuning.out_tile) + lax.iota(jnp.int32, tuning.out_tile)
        inside = column < jnp.int32(outs)
        row, mine = (first + nth)[:, None], (nth < count)[:, None]

        def load(ref: Any, *where: Array, live: Array | None, start: Array) -> Array:
            at = start + lax.iota(jnp.int32, tuning.in_tile)[None, :]
            mask = live
            if ins % tuning.in_tile:
                known = at < jnp.int32(ins)
                mask = known if live is None else live & known
            if mask is None:
                return plgpu.load(ref.at[(*where, at)])
            mask = jnp.broadcast_to(mask, (where[-1].shape[0], tuning.in_tile))
            return plgpu.load(ref.at[(*where, at)], mask=mask, other=0)

        def turn(i: Array, total: Array) -> Array:
            start = i * jnp.int32(tuning.in_tile)
            x = load(x_ref, row, live=mine, start=start)
            whole = outs % tuning.out_tile == 0
            w = load(w_ref, expert, column[:, None], live=None if whole else inside[:, None], start=start)
            if w.dtype == jnp.int8:
                w = w.astype(x.dtype)
            elif w.dtype != x.dtype:  # bits, on CPU
                w = lax.bitcast_convert_type(w, x.dtype)
            return total + dot(x, w)

        # the rows of no expert get their zeros without a look at any weight
        turns = jnp.where(expert < jnp.int32(num_experts), jnp.int32(-(-ins // tuning.in_tile)), jnp.int32(0))
        zeros = jnp.zeros((tuning.row_tile, tuning.out_tile), jnp.float32)
        total = lax.fori_loop(jnp.int32(0), turns, turn, zeros)
        for ref in scales:
            at = jnp.minimum(expert, jnp.int32(num_experts - 1))
            total = total * plgpu.load(ref.at[at, column], mask=inside, other=0)[None, :]
        plgpu.store(out.at[row, column[None, :]], total, mask=mine & inside[None, :])


def multiply(x: Array, w: Array | Int8Weight, group_sizes: Array, *, table: Table = NO_TUNING) -> Array:
    """x [M, A] by w [X, B, A] -> f32[M, B]; rows past sum(group_sizes) are zeros.

    table: tuning that goes before the shipped one.
    """
    (num_rows, ins), (num_experts, outs, _) = x.shape, w.shape
    dtype = logical_dtype(w).name
    tuning = tuning_for(
        current_target(), rows=num_rows, experts=num_experts, outs=outs, ins=ins, dtype=dtype, table=table
    )
    return multiply_tuned(x, w, group_sizes, tuning=tuning)


def multiply_tuned(x: Array, w: Array | Int8Weight, group_sizes: Array, *, tuning: Tuning) -> Array:
    """`multiply` with a given tuning."""
    num_rows, outs = x.shape[0], w.shape[1]
    tiles = row_tiles(group_sizes, num_rows=num_rows, row_tile=tuning.row_tile)
    band = min(tuning.band, tiles.shape[1])
    weights = [w.values, w.scales] if isinstance(w, Int8Weight) else [w]
    (out,) = launch(
        partial(_multiply_kernel, tuning=tuning),
        [tiles, x.astype(logical_dtype(w)), *weights],
        [jax.ShapeDtypeStruct((num_rows, outs), jnp.float32)],
        name="grouped_matmul",
        grid=(band, -(-outs // tuning.out_tile), -(-tiles.shape[1] // band)),
        num_warps=tuning.num_warps,
        num_stages=tuning.num_stages,
    )
    return out
