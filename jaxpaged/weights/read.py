"""Reads a checkpoint into leaves, by pieces of some MiB and several at once.

Of a parameter whose rows lie in the files as they are, the host holds no second copy, however large. Any other
(transposed, changed, MXFP4) is put together from whole tensors, each in memory beside it, and where its leaf is packed
or quantised it is there twice until that is filled.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from jax import Array

from jaxpaged.models.decoder import ParamSpec
from jaxpaged.progress import Advance, Progress
from jaxpaged.weights.leaf import Leaf
from jaxpaged.weights.mapping import Target
from jaxpaged.weights.rows import Run, pieces, row_runs
from jaxpaged.weights.safetensors import DTYPES, Checkpoint
from jaxpaged.weights.store import held_bytes, store

_MOST_READERS = 8
Parts = Mapping[str, Target]


def read_leaves(
    specs: tuple[ParamSpec, ...], targets: Parts, checkpoint: Checkpoint, *, progress: Progress | bool
) -> tuple[Array, ...]:
    """The leaves of these parameters out of a checkpoint in which nothing is wrong.

    Raises WeightsError where a file becomes unreadable on the way.
    """
    parts: list[dict[str, Target]] = [{} for _ in specs]
    for name, target in targets.items():
        parts[target.parameter][name] = target
    readers = min(_MOST_READERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(readers, "weights") as pool:

        def arrays_of(i: int, spec: ParamSpec, advance: Advance) -> tuple[Array, ...]:
            is_coded = any(coded_names(name, target, checkpoint) for name, target in parts[i].items())
            runs = None if is_coded else row_runs(spec.shape, parts[i])
            if runs is None:
                leaf = Leaf(spec)
                _assemble(leaf, spec, parts[i], checkpoint)
                advance(held_bytes(spec))
                return leaf.arrays()
            stored = {DTYPES[checkpoint.tensors[name].dtype] for name in parts[i]}
            leaf = Leaf(spec, dtype=stored.pop() if len(stored) == 1 else None)
            row_bytes = held_bytes(spec) // leaf.rows
            for rows in pool.map(partial(_fill, leaf, checkpoint), pieces(runs, leaf.step)):
                advance(rows * row_bytes)
            return leaf.arrays()

        return store(specs, arrays_of, phase="loading", progress=progress)


def coded_names(name: str, target: Target, checkpoint: Checkpoint) -> dict[str, str]:
    """The tensors that hold this one in its coded form, by the ends of their names; none where it is held plainly."""
    names = {end: name + end for end in target.coded_shapes()}
    return (
        {} if name in checkpoint.tensors or not any(checkpoint.is_there(other) for other in names.values()) else names
    )


def _fill(leaf: Leaf, checkpoint: Checkpoint, piece: list[Run]) -> int:
    """Read one piece of a parameter; returns its rows."""
    first, count = piece[0].first, sum(run.count for run in piece)
    values = leaf.room(first, count)
    for run in piece:
        begin = run.first - first
        checkpoint.read_into(run.tensor, values[begin : begin + run.count], skip=run.source * leaf.ins)
    leaf.put(first, values)
    return count


def _assemble(leaf: Leaf, spec: ParamSpec, parts: Parts, checkpoint: Checkpoint) -> None:
    """Read a parameter whose tensors are not rows of it as they are: one whole tensor after the other."""
    values = leaf.room(0, leaf.rows)
    for name, target in parts.items():
        if coded := coded_names(name, target, checkpoint):
            tensors = {end: checkpoint.read(other) for end, other in coded.items()}
            target.fill_coded(values.reshape(spec.shape), tensors)
        else:
            target.fill(values.reshape(spec.shape), checkpoint.read(name))
    for first in range(0, leaf.rows, leaf.step):
        leaf.put(first, values[first : first + leaf.step])
