"""Which rows of which tensors a parameter is made of, so that it can be filled piece by piece in its own order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from jaxpaged.weights.mapping import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`count` rows of a parameter [rows, A] from `first` on: those of one tensor from `source` on."""

    first: int
    count: int
    tensor: str
    source: int


def row_runs(shape: tuple[int, ...], parts: Mapping[str, Target]) -> list[Run] | None:
    """The runs that make up a parameter [*outs, A], in its order; a row is what its last dimension spans.

    parts: the tensors that fill it, by name. None where one of them is not rows of it as they are.
    """
    rows = math.prod(shape[:-1])
    numbered = np.arange(rows).reshape(*shape[:-1], 1)
    runs: list[Run] = []
    for name, target in parts.items():
        if target.transposed or target.values is not None:
            return None
        parts_of_it = target.parts(numbered)
        numbers = np.concatenate([part.reshape(-1) for part in parts_of_it])
        # a view that turns the last dimension leaves another one there
        if any(part.shape[-1] != 1 for part in parts_of_it) or numbers.size * shape[-1] != math.prod(target.shape):
            return None
        bounds = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), numbers.size]
        for begin, end in pairwise(bounds):
            runs.append(Run(first=int(numbers[begin]), count=end - begin, tensor=name, source=begin))
    runs.sort(key=lambda run: run.first)
    assert [run.first for run in runs] == [0, *np.cumsum([run.count for run in runs])[:-1].tolist()], f"gaps in {runs}"
    return runs


def pieces(runs: list[Run], rows: int) -> Iterator[list[Run]]:
    """The same rows, cut after every `rows` of the parameter."""
    piece: list[Run] = []
    left = rows
    for run in runs:
        done = 0
        while done < run.count:
            count = min(left, run.count - done)
            piece.append(Run(first=run.first + done, count=count, tensor=run.tensor, source=run.source + done))
            done, left = done + count, left - count
            if not left:
                yield piece
                piece, left = [], rows
    if piece:
        yield piece
