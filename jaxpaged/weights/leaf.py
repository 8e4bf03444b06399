"""The memory of one parameter in its final form, filled by rows: rounded, quantised, permuted as they come."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import DTypeLike, NDArray

from jaxpaged.models.decoder import ParamSpec
from pallas_kernels.int8 import quantise
from pallas_kernels.packed import UNIT, pack, packed_shape
from pallas_kernels.packed_f32 import PANEL, pack_f32, packed_f32_shape
from pallas_kernels.packed_int8 import PANEL as INT8_PANEL
from pallas_kernels.packed_int8 import pack_int8, packed_int8_shape

PIECE_BYTES = 2**22
"""Of the values that are on their way: large enough for a disk, small enough for a cache."""
_ALIGNMENT = 64
"""Bytes. On a CPU `device_put` takes memory over where it is aligned like this, and copies it where it is not (jax
0.10.2, by the addresses of both). `np.empty` aligns to 16."""


class Leaf:
    """A parameter [*outs, A] on its way, seen as rows [B, A]; the leaves of a quantised one are its values and scales.

    Rows may come in any order, from several threads, each of them once: `room`, which the caller fills, and then `put`,
    which takes `step` rows at a time, or those that are left.
    """

    def __init__(self, spec: ParamSpec, *, dtype: np.dtype | None = None) -> None:
        """dtype: what values come in where they are quantised, some float; float32 if it is not said."""
        self._spec = spec
        self.rows, self.ins = math.prod(spec.shape[:-1]), spec.shape[-1]
        self.dtype = dtype if dtype is not None and spec.quantised else values_dtype(spec)
        unit = _unit(spec)
        self.step = max(1, PIECE_BYTES // (self.ins * self.dtype.itemsize * unit)) * unit
        self._held = _aligned(_held_shape(spec, self.rows, self.ins), _held_dtype(spec))
        self._scales = _aligned((self.rows,), np.float32) if spec.quantised else None
        self._direct = not (spec.packed or spec.quantised)

    def room(self, first: int, count: int) -> NDArray[Any]:
        """Where the values of rows [count, A] from `first` on are to be written, of `dtype`."""
        return self._held[first : first + count] if self._direct else np.empty((count, self.ins), self.dtype)

    def put(self, first: int, values: NDArray[Any]) -> None:
        """Take over what `room` gave for the rows from `first` on, and is filled now."""
        if self._direct:
            return
        count = len(values)
        if self._scales is not None:
            values, self._scales[first : first + count] = _quantised(values, self.step)
        unit = _unit(self._spec)
        held = self._held[first // unit : -(-(first + count) // unit)]
        if self._spec.packed:
            packer(self._spec)(values, held)
        else:
            held[...] = values

    def arrays(self) -> tuple[Array, ...]:
        """On the device, in the order of the declarations. Nothing may be written any more."""
        held = self._held if self._spec.packed else self._held.reshape(self._spec.shape)
        values = jax.device_put(held.view(self._spec.storage) if self._direct else held)
        if self._scales is None:
            return (values,)
        return values, jax.device_put(self._scales.reshape(self._spec.shape[:-1]))


def packer(spec: ParamSpec) -> Callable[..., NDArray[Any]]:
    """What permutes rows [B, A] of a parameter that is held packed, into `out` where it is given."""
    return pack_int8 if spec.quantised else pack_f32 if spec.dtype == np.float32 else pack


def values_dtype(spec: ParamSpec) -> np.dtype:
    """The type that a parameter's values are best made in: its own, float32 where they are quantised."""
    return np.dtype(np.float32) if spec.quantised else spec.dtype


def quantised(values: Array) -> tuple[Array, Array]:
    """Values [..., A] on the device as int8 and scales [...]."""
    return _quantise(values)


def _unit(spec: ParamSpec) -> int:
    """Rows that are held together."""
    if not spec.packed:
        return 1
    return INT8_PANEL if spec.quantised else PANEL if spec.dtype == np.float32 else UNIT


def _held_shape(spec: ParamSpec, rows: int, ins: int) -> tuple[int, ...]:
    if not spec.packed:
        return rows, ins
    if spec.quantised:
        return packed_int8_shape(rows, ins)
    return packed_f32_shape(rows, ins) if spec.dtype == np.float32 else packed_shape(rows, ins)


def _held_dtype(spec: ParamSpec) -> DTypeLike:
    return spec.storage if spec.packed else spec.dtype


def _quantised(values: NDArray[Any], rows: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """i8[B, A] and scales f32[B] of at most `rows` rows, by a program for exactly so many."""
    count = len(values)
    whole = (
        values if count == rows else np.concatenate([values, np.zeros((rows - count, values.shape[1]), values.dtype)])
    )
    held, scales = _quantise(jnp.asarray(whole))
    return np.asarray(held)[:count], np.asarray(scales)[:count]


def _aligned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


_quantise = jax.jit(quantise)
