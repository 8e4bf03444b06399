"""Tiles of rows of one expert each, in a loop that runs as often as there are tiles: idle experts cost nothing."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.grouped_matmul.reference import logical_dtype
from pallas_kernels.linear import dot
from pallas_kernels.target import on_cpu

_LEAST_TILE = 8
_MOST_TILE = 64


def tile_rows(num_rows: int, num_experts: int) -> int:
    """Rows of a tile: about what an expert gets when all get the same, so that few tiles are short."""
    share = -(-num_rows // num_experts)
    return min(max(1 << (share - 1).bit_length(), _LEAST_TILE), _MOST_TILE)


def multiply(x: Array, w: Array, group_sizes: Array) -> Array:
    """x [M, A] by w [X, B, A] -> f32[M, B]; rows past sum(group_sizes) are zeros."""
    (num_rows, width), (num_experts, height, _) = x.shape, w.shape
    tile = tile_rows(num_rows, num_experts)
    counts = (group_sizes + (tile - 1)) // tile
    tile_ends = jnp.cumsum(counts, dtype=jnp.int32)
    row_ends = jnp.cumsum(group_sizes, dtype=jnp.int32)
    x = jnp.pad(x.astype(jnp.float32), ((0, tile), (0, 0)))
    logical = logical_dtype(w)
    if w.dtype == jnp.bfloat16 and on_cpu():
        # slicing a bfloat16 array in a loop widens all of it on XLA's CPU compiler; making bits of it still copies it
        w = lax.bitcast_convert_type(w, jnp.uint16)

    def take_tile(index: Array, out: Array) -> Array:
        expert = jnp.sum(tile_ends <= index, dtype=jnp.int32)
        nth = index - (tile_ends[expert] - counts[expert])
        start = row_ends[expert] - group_sizes[expert] + nth * tile
        rows = lax.dynamic_slice(x, (start, 0), (tile, width))
        weights = lax.bitcast_convert_type(lax.dynamic_index_in_dim(w, expert, keepdims=False), logical)
        product = dot(rows.astype(logical), weights)
        mine = start + jnp.arange(tile, dtype=jnp.int32) < row_ends[expert]
        # ascending: the zeros of a tile's tail are overwritten by the expert they belong to
        return lax.dynamic_update_slice(out, jnp.where(mine[:, None], product, 0.0), (start, 0))

    out = jnp.zeros((num_rows + tile, height), jnp.float32)
    return lax.fori_loop(0, tile_ends[-1], take_tile, out)[:num_rows]
