"""From the values of parameters to the arrays that hold them, one parameter after the other."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import numpy as np
from jax import Array

from jaxpaged.models.decoder import ParamSpec
from jaxpaged.progress import Advance, Progress, progress_of
from jaxpaged.weights.leaf import Leaf, quantised

ArraysOf = Callable[[int, ParamSpec, Advance], tuple[Array, ...]]


def store(
    specs: tuple[ParamSpec, ...], arrays_of: ArraysOf, *, phase: str, progress: Progress | bool
) -> tuple[Array, ...]:
    """The leaves of these parameters, in their order. They are made one at a time, so that beside a device of its own
    memory the host holds two parameters at most: one that is made and one on its way.

    arrays_of: index, declaration, and whom to tell of bytes that are held -> the parameter as it is held, and the
    scales of a quantised one. Not asked for scales. phase: what `progress` is told this is.
    """
    leaves: dict[str, Array] = {}
    on_its_way: tuple[Array, ...] = ()
    total = sum(map(held_bytes, specs))
    with progress_of(progress).track(phase, total=total, unit="B") as advance:
        for i, spec in enumerate(specs):
            if spec.is_scale:
                continue
            arrays = arrays_of(i, spec, advance)
            jax.block_until_ready(on_its_way)
            on_its_way = arrays
            leaves |= zip((spec.path, f"{spec.path}_scale"), arrays, strict=False)
    return tuple(leaves[spec.path] for spec in specs)


def held_bytes(spec: ParamSpec) -> int:
    """Of a parameter as it is declared; of scales none, which come with what they scale."""
    return 0 if spec.is_scale else math.prod(spec.shape) * spec.dtype.itemsize


def hold(spec: ParamSpec, values: np.ndarray | Array) -> tuple[Array, ...]:
    """A parameter whose values are all there, of `values_dtype` or as it is held already."""
    if isinstance(values, Array) and not spec.packed:
        return quantised(values) if spec.quantised else (values,)
    leaf = Leaf(spec)
    rows = np.asarray(values).reshape(leaf.rows, leaf.ins)
    for first in range(0, leaf.rows, leaf.step):
        part = rows[first : first + leaf.step]
        room = leaf.room(first, len(part))
        room[...] = part
        leaf.put(first, room)
    return leaf.arrays()
