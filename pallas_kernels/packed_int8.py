"""Int8 weights in the order that the CPU's AMX unit reads them, or its vectors with AVX512-VNNI: permuted once at load,
zeros up to whole tiles."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

PANEL, DEPTH = 32, 64
"""Outputs of a panel, and inputs of a tile."""
_HALF = 16


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class PackedInt8Weight:
    """A weight [B, A]: int8 values times scales f32[B].

    tiles: u32[panels, depths, 2, 16, 16]: panel, depth, half of the panel, four inputs, output; each number is four
    inputs, the first in the low bits.
    """

    tiles: Array
    scales: Array
    ins: int = field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        """[B, A]."""
        return self.scales.shape[0], self.ins

    def rows(self, indices: Array) -> Array:
        """f32[T, A]: the rows of the weight at i32[T]."""
        panel, half, output = indices // PANEL, indices % PANEL // _HALF, indices % _HALF
        fours = self.tiles.at[panel, :, half, :, output].get(mode="clip")  # [T, depths, 16]
        values = lax.bitcast_convert_type(fours, jnp.int8).reshape(indices.shape[0], -1)[:, : self.ins]
        return values.astype(jnp.float32) * self.scales.at[indices].get(mode="clip")[:, None]


def packed_int8_shape(outs: int, ins: int) -> tuple[int, ...]:
    """The shape of the tiles of a weight [outs, ins]."""
    return -(-outs // PANEL), -(-ins // DEPTH), 2, _HALF, _HALF


def pack_int8(values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The tiles of values i8[B, A]; written to `out` where it is given."""
    outs, ins = values.shape
    panels, depths, *_ = packed_int8_shape(outs, ins)
    whole = np.zeros((panels * PANEL, depths * DEPTH), np.int8)
    whole[:outs, :ins] = values
    fours = whole.view(np.uint32).reshape(panels, 2, _HALF, depths, _HALF)
    tiles = np.empty(packed_int8_shape(outs, ins), np.uint32) if out is None else out
    tiles[...] = fours.transpose(0, 3, 1, 4, 2)
    return tiles
