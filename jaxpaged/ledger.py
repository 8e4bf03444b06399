"""Where every token place of the KV pool is, by what holds it. [host half: no jax]"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KVLedger:
    """Every slot (token place of a block) of the pool, in exactly one class; `total` is the sum of the classes.

    live: holds a token of one request. behind: likewise, but no later token of that request sees it, since its group
    has a window. shared: holds a token of several requests, counted once. tail: held by a request but
    without a token yet. cached: holds a token of nobody, kept for prefix hits. free, null: hold nothing.
    Beside the classes, `tokens`: of all running requests, those that each group holds, shared ones as often as they are
    shared; and `contiguous`: slots that a max-length reservation in each group for each running request would hold.
    """

    live: int
    behind: int
    shared: int
    tail: int
    cached: int
    free: int
    null: int
    tokens: int
    contiguous: int

    @property
    def held(self) -> int:
        """Slots that running requests keep from others."""
        return self.live + self.behind + self.shared + self.tail

    @property
    def total(self) -> int:
        return self.held + self.cached + self.free + self.null
