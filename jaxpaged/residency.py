"""How long blocks keep what they hold, and how soon it is used again: of a sample of them. [host half: no jax]

A sampled block is followed from its allocation to its eviction, which is when the prefix cache gives its content up for
want of room. Its touches are its allocation and each prefix hit; so the gaps between them and the idle time after the
last one sum to its lifetime. A block that is given back before it was cached, and all blocks when the cache is
cleared, drop out of the sample uncounted: nothing was evicted.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

BOUNDS_S = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0),
    *(120.0, 300.0, 600.0, 1200.0, 1800.0),
)
"""Upper bounds of the histograms, in seconds: vLLM's."""


@dataclass(slots=True, kw_only=True)
class Spans:
    """Spans of time. counts: of at most BOUNDS_S[i] seconds and above the bound before it; the last: above all."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    total_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.total_s += seconds


@dataclass(slots=True, kw_only=True)
class ResidencyCounts:
    """Of the sampled blocks since the start. lifetime: from allocation to eviction. idle: from the last touch to
    eviction. gap: from one touch to the next, counted at once, whether or not the block is ever evicted."""

    lifetime: Spans = field(default_factory=Spans)
    idle: Spans = field(default_factory=Spans)
    gap: Spans = field(default_factory=Spans)


@dataclass(slots=True)
class _Sample:
    allocated_s: float
    touched_s: float


class BlockResidency:
    """A `BlockListener` that follows some blocks of the pool.

    skip: how many allocations to pass over before the next sampled one; see `every`. clock: seconds, never going back;
    it is asked only where a sampled block is concerned.
    """

    def __init__(self, skip: Callable[[], int], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts = ResidencyCounts()
        """Any thread may read it."""
        self._skip, self._clock = skip, clock
        self._passing = skip()
        self._samples: dict[int, _Sample] = {}  # by block

    @classmethod
    def every(
        cls, share: float, *, clock: Callable[[], float] = time.monotonic, seed: int | None = None
    ) -> BlockResidency:
        """Follow each allocated block with probability `share`, above 0 and at most 1, whatever the others do."""
        assert 0 < share <= 1, f"a share of {share}"
        draw, rate = Random(seed).random, math.log1p(-share) if share < 1 else -math.inf
        return cls(lambda: int(math.log(1 - draw()) / rate), clock=clock)  # geometric: one draw a sample

    def allocated(self, blocks: Sequence[int]) -> None:
        """Blocks were given out; what they held was evicted before, or of no value."""
        samples, count = self._samples, len(blocks)
        if samples and not samples.keys().isdisjoint(blocks):
            for block in blocks:  # freed without having been cached
                samples.pop(block, None)
        if self._passing >= count:
            self._passing -= count
            return
        now, place = self._clock(), self._passing
        while place < count:
            samples[blocks[place]] = _Sample(now, now)
            place += 1 + self._skip()
        self._passing = place - count

    def touched(self, blocks: Sequence[int]) -> None:
        """A request begins with these cached blocks."""
        if samples := self._samples:
            for block in blocks:
                if (sample := samples.get(block)) is not None:
                    now = self._clock()
                    self.counts.gap.add(now - sample.touched_s)
                    sample.touched_s = now

    def evicted(self, block: int) -> None:
        """The content of a cached block is given up for want of room."""
        if (sample := self._samples.pop(block, None)) is not None:
            now = self._clock()
            self.counts.lifetime.add(now - sample.allocated_s)
            self.counts.idle.add(now - sample.touched_s)

    def cleared(self) -> None:
        """All cached content is given up at somebody's wish."""
        self._samples.clear()
