"""Who is told how far a start has come: nobody, bars on a terminal, or whoever implements `Progress`. [no jax]"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from tqdm import tqdm

Advance = Callable[[int], object]
"""Told how many units are done since the last call."""


class Progress(Protocol):
    """Told of phases that follow one another, all in one thread."""

    def track(self, phase: str, *, total: int, unit: str) -> AbstractContextManager[Advance]:
        """One phase, from entering the context to leaving it. phase: a word such as "loading". unit: of `total`, "B"
        for bytes."""
        ...


class Bars:
    """Bars on stderr, gone when their phase ends."""

    @contextmanager
    def track(self, phase: str, *, total: int, unit: str) -> Iterator[Advance]:
        with tqdm(total=total, desc=phase, unit=unit, unit_scale=unit == "B", leave=False) as bar:
            yield bar.update


class Silence:
    """Tells nobody."""

    @contextmanager
    def track(self, phase: str, *, total: int, unit: str) -> Iterator[Advance]:
        del phase, total, unit
        yield lambda _: None


def progress_of(progress: Progress | bool) -> Progress:
    """What callers may say for short: True for bars, False for silence."""
    if isinstance(progress, bool):
        return Bars() if progress else Silence()
    return progress
