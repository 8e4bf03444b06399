"""Counts of values by upper bound. [no lock: prometheus_client's own takes 0.6 to 0.8 us a value, this one 0.13]"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from prometheus_client.utils import floatToGoString


class Histogram:
    """Values at most `bounds[i]` and above the bound before it, for each i; the last count is of those above all.

    Not thread-safe. bounds: ascending.
    """

    __slots__ = ("_bounds", "_counts", "_names", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        assert list(bounds) == sorted(set(bounds)), f"bounds {bounds} do not ascend"
        self._bounds = tuple(bounds)
        self._names = (*(floatToGoString(bound) for bound in bounds), "+Inf")
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        """Sum of the values."""

    @classmethod
    def of(cls, bounds: Sequence[float], counts: Sequence[int], total: float) -> Histogram:
        """What others have counted: one count a bound and one above all, or none at all."""
        made = cls(bounds)
        assert len(counts) in (0, len(bounds) + 1), f"{len(counts)} counts for {len(bounds)} bounds"
        made._counts[:] = counts or made._counts
        made.total = total
        return made

    def observe(self, value: float, count: int = 1) -> None:
        """Count a value, `count` times."""
        self._counts[bisect_left(self._bounds, value)] += count
        self.total += value * count

    @property
    def count(self) -> int:
        """Values counted."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound as Prometheus writes it, values up to there), the last one "+Inf"."""
        reached, found = 0, list[tuple[str, float]]()
        for name, count in zip(self._names, self._counts, strict=True):
            reached += count
            found.append((name, reached))
        return found
