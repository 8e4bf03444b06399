"""How many layers one block of the KV pool serves: the one choice behind a model's KV groups.

All groups take their blocks from one pool, so a block has the same size whichever group holds it: room for the keys
and values of P tokens in m layers. Layers of one window are cut into groups of m; the last one of a window may have
fewer, and then a part of its blocks stays empty. Small m waste nothing, but every group has a block table of its own,
which the host fills and the device reads in each step.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

MOST_GROUPS = 8
"""Block tables of a request, unless it has layers of more different windows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """So many layers, each of which holds the same number of tokens of the longest context."""

    layers: int
    tokens: int

    def __post_init__(self) -> None:
        assert self.layers > 0, "a kind of no layers"
        assert self.tokens > 0, "a kind that holds no tokens"


def layers_per_block(kinds: Collection[LayerKind], *, most_groups: int = MOST_GROUPS) -> int:
    """The m that makes the longest context take the fewest bytes in at most `most_groups` groups.

    A group of a kind holds `tokens` places of m layers, so the bytes are as m * sum(ceil(layers / m) * tokens). Every
    m is tried; of equal ones the one with the fewest groups is taken. Where there are more kinds than `most_groups`,
    each is one group.
    """
    allowed = max(most_groups, len(kinds))

    def groups(m: int) -> int:
        return sum(-(-kind.layers // m) for kind in kinds)

    def places(m: int) -> int:
        return m * sum(-(-kind.layers // m) * kind.tokens for kind in kinds)

    deepest = max(kind.layers for kind in kinds)
    return min((m for m in range(1, deepest + 1) if groups(m) <= allowed), key=lambda m: (places(m), groups(m)))
