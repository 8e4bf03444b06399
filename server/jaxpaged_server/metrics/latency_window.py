"""Latencies of the last minutes, as points to draw and as percentiles. Bounded whatever the load."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import accumulate

SLOT_S = 1.0
SLOT_SAMPLES = 16


class _Slot:
    """One second: how many samples there were, and a fair draw of at most SLOT_SAMPLES of them."""

    __slots__ = ("at", "count", "kept")

    def __init__(self, at: float) -> None:
        self.at = at
        self.count = 0
        self.kept: list[tuple[float, float]] = []


class LatencyWindow:
    """Samples of the last `horizon_s` seconds. Each second keeps 16, drawn so that every sample is as likely.

    Times are seconds on any clock that does not go back; a sample that is older than the latest second counts there.
    """

    def __init__(self, *, horizon_s: float = 300.0, draw: random.Random | None = None) -> None:
        assert horizon_s >= SLOT_S, f"a window of {horizon_s} s"
        self._horizon_s = horizon_s
        self._slots: deque[_Slot] = deque()
        self._end = float("-inf")  # of the latest slot
        self._draw = (draw or random.Random(0)).random

    def add(self, at: float, seconds: float) -> None:
        """Take in a latency seen at a time."""
        if at >= self._end:
            self._open(at)
        slot = self._slots[-1]
        slot.count += 1
        if len(slot.kept) < SLOT_SAMPLES:
            slot.kept.append((at, seconds))
        elif (place := int(self._draw() * slot.count)) < SLOT_SAMPLES:
            slot.kept[place] = (at, seconds)

    def points(self, now: float, *, shift_s: float = 0.0) -> list[list[float]]:
        """[time + shift_s, seconds] of the kept samples, by time."""
        return [[at + shift_s, seconds] for slot in self._live(now) for at, seconds in sorted(slot.kept)]

    def count(self, now: float) -> int:
        """Samples of the window, kept or not."""
        return sum(slot.count for slot in self._live(now))

    def percentiles(self, now: float, shares: Sequence[float]) -> list[float] | None:
        """For each share (0 to 1) the latency that this share of the samples does not exceed; None without samples.

        A kept sample stands for the others of its second.
        """
        weighted = sorted(
            (seconds, slot.count / len(slot.kept)) for slot in self._live(now) for _, seconds in slot.kept
        )
        if not weighted:
            return None
        reached = list(accumulate(weight for _, weight in weighted))
        found: list[float] = []
        for share in shares:
            assert 0 <= share <= 1, f"a share of {share}"
            found.append(weighted[min(bisect_left(reached, share * reached[-1]), len(weighted) - 1)][0])
        return found

    def _open(self, at: float) -> None:
        self._slots.append(_Slot(at))
        self._end = at + SLOT_S
        self._forget(at)

    def _forget(self, now: float) -> None:
        while self._slots and self._slots[0].at + SLOT_S <= now - self._horizon_s:
            self._slots.popleft()

    def _live(self, now: float) -> deque[_Slot]:
        self._forget(now)
        return self._slots
