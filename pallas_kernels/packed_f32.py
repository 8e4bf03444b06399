"""Float32 weights in the order that the native product reads them: permuted once at load, the same bytes."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
from jax import Array

PANEL = 32
"""Outputs of a panel: a packed weight has a multiple of it, and any number of inputs."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class PackedF32Weight:
    """A float32 weight [B, A]. panels: f32[B/32, A, 32]: panel, input, output.

    Every sum of a product is one chain of fused multiply-adds in the order of the inputs: other bits than XLA's dot.
    """

    panels: Array

    @property
    def shape(self) -> tuple[int, int]:
        """[B, A]."""
        return self.panels.shape[0] * PANEL, self.panels.shape[1]

    def rows(self, indices: Array) -> Array:
        """f32[T, A]: the rows of the weight at i32[T]."""
        return self.panels.at[indices // PANEL, :, indices % PANEL].get(mode="clip")


def can_pack_f32(outs: int) -> bool:
    """Whether a float32 weight of so many outputs has a packed form."""
    return outs % PANEL == 0


def packed_f32_shape(outs: int, ins: int) -> tuple[int, ...]:
    """The shape of the panels of a weight [outs, ins]."""
    return outs // PANEL, ins, PANEL


def pack_f32(weight: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The panels of a float32 weight [B, A]; written to `out` where it is given."""
    outs, ins = weight.shape
    panels = np.empty(packed_f32_shape(outs, ins), np.float32) if out is None else out
    panels[...] = weight.reshape(outs // PANEL, PANEL, ins).swapaxes(1, 2)
    return panels
