"""How many blocks of the KV pool a context takes, in all KV groups together. [host half: no jax]"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass


def spanned(num_tokens: int, block_size: int) -> int:
    """Blocks that so many tokens in a row, at least one, may touch wherever they begin."""
    return (num_tokens + block_size - 2) // block_size + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KVDemand:
    """windows: of each KV group, in tokens; None: it holds everything. chunk: tokens of a request in a step at most.

    While a step computes the tokens from place n to below n + c, a group with a window w holds those from
    n - (w - 1) on, so I-WINDOW: at most `spanned(w - 1 + c)` blocks, however long the context.
    """

    windows: tuple[int | None, ...]
    block_size: int
    chunk: int

    def most(self, window: int) -> int:
        """Blocks that a group with this window ever holds of a request."""
        return spanned(window - 1 + self.chunk, self.block_size)

    def blocks(self, num_tokens: int) -> int:
        """The most that a context of `num_tokens` tokens holds while it is computed, from nothing on."""
        whole = -(-num_tokens // self.block_size)
        return sum(whole if window is None else min(whole, self.most(window)) for window in self.windows)

    def missing(self, more: int, held: tuple[int, ...]) -> int:
        """New blocks that a context needs at once while it grows by `more` blocks, in each group.

        held: blocks that each group has of it, which a window gives up as it moves on.
        """
        return sum(
            more if window is None else min(more, max(0, self.most(window) - count))
            for window, count in zip(self.windows, held, strict=True)
        )

    def longest(self, num_blocks: int, *, at_most: int) -> int:
        """Tokens of the longest context, up to `at_most`, that so many blocks hold; 0 if there is none."""
        return bisect_right(range(at_most + 1), num_blocks, key=self.blocks) - 1
