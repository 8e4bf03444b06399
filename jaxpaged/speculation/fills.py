"""Which tokens of the KV blocks a draft model has computed. [host half: no jax]

The draft model keeps the keys and values of a token in the block that the served model keeps its own in, so what shares
blocks, or finds them in the prefix cache, finds these there, too. But it computes them only when guesses are wanted:
here is noted how far.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from jaxpaged.request import Request


class DraftFills:
    """Of each block, how many of its first tokens have the draft model's keys and values.

    group: the served model's KV group whose blocks the draft model uses. A `BlockListener`.
    """

    def __init__(self, num_blocks: int, *, block_size: int, group: int) -> None:
        self._filled = array("i", [0]) * num_blocks
        self._size = block_size
        self._group = group

    def known(self, request: Request, start: int = 0) -> int:
        """How many of a request's first tokens are computed. start: as far as they are known to be."""
        table, size, filled = request.block_ids[self._group], self._size, self._filled
        i = start // size
        while i < len(table) and filled[table[i]] == size:
            i += 1
        return i * size + (filled[table[i]] if i < len(table) else 0)

    def computed(self, request: Request, start: int, end: int) -> None:
        """Take in that the tokens from `start` to below `end` are computed, all before them were before."""
        table, size, filled = request.block_ids[self._group], self._size, self._filled
        for i in range(start // size, -(-end // size)):
            filled[table[i]] = max(filled[table[i]], min(size, end - i * size))

    def forget(self) -> None:
        """Nothing is computed any more."""
        self._filled = array("i", [0]) * len(self._filled)

    def allocated(self, blocks: Sequence[int]) -> None:
        """Blocks were given out for other tokens."""
        for block in blocks:
            self._filled[block] = 0

    def touched(self, blocks: Sequence[int]) -> None:
        """Blocks keep what they hold when a request begins with them."""

    def evicted(self, block: int) -> None:
        """What a block held is given up; it is given out next."""

    def cleared(self) -> None:
        """All cached content is given up: what blocks hold goes when they are given out."""
