"""Weights in the order that the CPU's AMX unit reads them, or AVX512-BF16: permuted once at load, the same bytes."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

UNIT = 32
"""Outputs of a panel, and inputs of a tile: both sizes of a packed weight are multiples of it."""
_HALF = 16


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWeight:
    """A bfloat16 weight [B, A]. tiles: u32[B/32, A/32, 2, 16, 16]: panel, depth, half of the panel, pair of inputs,
    output; each number is a pair's two bfloat16, the first in the low bits.

    On AMX a product has the bits of XLA's dot. In vectors (vdpbf16ps) a sum is one chain over the pairs in their order,
    for any number of rows: within (A + 1) * 2**-24 of the sum of magnitudes; subnormal numbers count as zero.
    """

    tiles: Array

    @property
    def shape(self) -> tuple[int, int]:
        """[B, A]."""
        return self.tiles.shape[0] * UNIT, self.tiles.shape[1] * UNIT

    def rows(self, indices: Array) -> Array:
        """f32[T, A]: the rows of the weight at i32[T]."""
        panel, half, output = indices // UNIT, indices % UNIT // _HALF, indices % _HALF
        pairs = self.tiles.at[panel, :, half, :, output].get(mode="clip")  # [T, A/32, 16]
        numbers = lax.bitcast_convert_type(pairs, jnp.uint16)  # [T, A/32, 16, 2]
        wide = lax.shift_left(numbers.reshape(indices.shape[0], -1).astype(jnp.uint32), jnp.uint32(16))
        return lax.bitcast_convert_type(wide, jnp.float32)


def can_pack(outs: int, ins: int, dtype: str) -> bool:
    """Whether a weight [outs, ins] has a packed form."""
    return dtype == "bfloat16" and outs % UNIT == 0 and ins % UNIT == 0


def packed_shape(outs: int, ins: int) -> tuple[int, ...]:
    """The shape of the tiles of a weight [outs, ins]."""
    return outs // UNIT, ins // UNIT, 2, _HALF, _HALF


def pack(weight: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The tiles of a bfloat16 weight [B, A], contiguous; written to `out` where it is given."""
    outs, ins = weight.shape
    pairs = weight.view(np.uint32).reshape(outs // UNIT, 2, _HALF, ins // UNIT, _HALF)
    tiles = np.empty(packed_shape(outs, ins), np.uint32) if out is None else out
    tiles[...] = pairs.transpose(0, 3, 1, 4, 2)
    return tiles
