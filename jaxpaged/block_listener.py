"""Who is told what becomes of blocks. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class BlockListener(Protocol):
    """Told by `KVCache` of every allocation, prefix hit and eviction of blocks."""

    def allocated(self, blocks: Sequence[int]) -> None:
        """Blocks were given out; what they held was evicted before, or of no value."""
        ...

    def touched(self, blocks: Sequence[int]) -> None:
        """A request begins with these cached blocks."""
        ...

    def evicted(self, block: int) -> None:
        """The content of a cached block is given up for want of room."""
        ...

    def cleared(self) -> None:
        """All cached content is given up at somebody's wish."""
        ...


class BlockListeners:
    """Tells several."""

    def __init__(self, *listeners: BlockListener) -> None:
        self._listeners = listeners

    def allocated(self, blocks: Sequence[int]) -> None:
        for listener in self._listeners:
            listener.allocated(blocks)

    def touched(self, blocks: Sequence[int]) -> None:
        for listener in self._listeners:
            listener.touched(blocks)

    def evicted(self, block: int) -> None:
        for listener in self._listeners:
            listener.evicted(block)

    def cleared(self) -> None:
        for listener in self._listeners:
            listener.cleared()
