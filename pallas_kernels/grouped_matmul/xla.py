"""Tiles of rows of one expert each, in a loop that runs as often as there are tiles: idle experts cost nothing."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.grouped_matmul.reference import logical_dtype
from pallas_kernels.int8 import Int8Weight, int_dot, quantise
from pallas_kernels.linear import dot
from pallas_kernels.target import on_cpu

_LEAST_TILE = 8
_MOST_TILE = 64


def tile_rows(num_rows: int, num_experts: int) -> int:
    """Rows of a tile: about what an expert gets when all get the same, so that few tiles are short."""
    share = -(-num_rows // num_experts)
    return min(max(1 << (share - 1).bit_length(), _LEAST_TILE), _MOST_TILE)


def multiply(x: Array, w: Array | Int8Weight, group_sizes: Array) -> Array:
    """x [M, A] by w [X, B, A] -> f32[M, B]; rows past sum(group_sizes) are zeros."""
    (num_rows, _), (num_experts, height, _) = x.shape, w.shape
    tile = tile_rows(num_rows, num_experts)
    x = jnp.pad(x.astype(jnp.float32), ((0, tile), (0, 0)))
    product = _int8_products(x, w, tile) if isinstance(w, Int8Weight) else _products(x, w, tile)
    counts = (group_sizes + (tile - 1)) // tile
    tile_ends = jnp.cumsum(counts, dtype=jnp.int32)
    row_ends = jnp.cumsum(group_sizes, dtype=jnp.int32)

    def take_tile(index: Array, out: Array) -> Array:
        expert = jnp.sum(tile_ends <= index, dtype=jnp.int32)
        nth = index - (tile_ends[expert] - counts[expert])
        start = row_ends[expert] - group_sizes[expert] + nth * tile
        mine = start + jnp.arange(tile, dtype=jnp.int32) < row_ends[expert]
        # ascending: the zeros of a tile's tail are overwritten by the expert they belong to
        return lax.dynamic_update_slice(out, jnp.where(mine[:, None], product(expert, start), 0.0), (start, 0))

    out = jnp.zeros((num_rows + tile, height), jnp.float32)
    return lax.fori_loop(0, tile_ends[-1], take_tile, out)[:num_rows]


Product = Callable[[Array, Array], Array]
"""(expert, first row of a tile) -> f32[tile, B]."""


def _products(x: Array, w: Array, tile: int) -> Product:
    logical = logical_dtype(w)
    if w.dtype == jnp.bfloat16 and on_cpu():
        # slicing a bfloat16 array in a loop widens all of it on XLA's CPU compiler; making bits of it still copies it
        w = lax.bitcast_convert_type(w, jnp.uint16)

    def product(expert: Array, start: Array) -> Array:
        weights = lax.bitcast_convert_type(lax.dynamic_index_in_dim(w, expert, keepdims=False), logical)
        return dot(lax.dynamic_slice_in_dim(x, start, tile).astype(logical), weights)

    return product


def _int8_products(x: Array, w: Int8Weight, tile: int) -> Product:
    values, scales = quantise(x) if on_cpu() else (x.astype(w.dtype), None)

    def product(expert: Array, start: Array) -> Array:
        weights = lax.dynamic_index_in_dim(w.values, expert, keepdims=False)
        outs = lax.dynamic_index_in_dim(w.scales, expert, keepdims=False)[None, :]
        rows = lax.dynamic_slice_in_dim(values, start, tile)
        if scales is None:
            return dot(rows, weights.astype(w.dtype)) * outs
        return int_dot(rows, weights).astype(jnp.float32) * (
            lax.dynamic_slice_in_dim(scales, start, tile)[:, None] * outs
        )

    return product
