"""A run over time: rates in equal slices of it, and how many requests were under way."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

from jaxpaged_server.load.outcome import End, Outcome

_MOST_SLICES, _LEAST_IN_SLICE = 100, 10
_POINTS = 400


def num_slices(num_events: int) -> int:
    """As many as are worth drawing: with ten events in each on average, 100 at most."""
    return max(1, min(_MOST_SLICES, num_events // _LEAST_IN_SLICE))


def rates(events: Iterable[tuple[float, float]], duration_s: float, slices: int) -> list[float]:
    """Weight a second in each of the equal slices, of (seconds, weight)."""
    sums = [0.0] * slices
    for time_s, weight in events:
        sums[min(slices - 1, int(time_s / duration_s * slices))] += weight
    return [total * slices / duration_s for total in sums]


def token_events(outcomes: Sequence[Outcome]) -> list[tuple[float, float]]:
    """When output tokens came, and how many, of every request that brought some."""
    return [pair for each in outcomes for pair in zip(each.times_s, each.weights, strict=True)]


def ends(outcomes: Sequence[Outcome], end: End) -> list[tuple[float, float]]:
    """When requests ended in this way, each of weight 1."""
    return [(outcome.ended_s, 1.0) for outcome in outcomes if outcome.end is end]


def under_way(outcomes: Sequence[Outcome], duration_s: float) -> list[tuple[float, float]]:
    """(seconds, requests sent and not ended) at evenly spread moments."""
    return _between(outcomes, duration_s, lambda outcome: outcome.began_s, lambda outcome: outcome.ended_s)


def waiting_here(outcomes: Sequence[Outcome], duration_s: float) -> list[tuple[float, float]]:
    """(seconds, requests due and not sent) at evenly spread moments."""
    return _between(outcomes, duration_s, lambda outcome: outcome.due_s, lambda outcome: outcome.began_s)


def _between(
    outcomes: Sequence[Outcome],
    duration_s: float,
    begin: Callable[[Outcome], float],
    end: Callable[[Outcome], float],
) -> list[tuple[float, float]]:
    begins, over = sorted(map(begin, outcomes)), sorted(map(end, outcomes))
    moments = [duration_s * number / _POINTS for number in range(_POINTS + 1)]
    return [(moment, float(bisect_right(begins, moment) - bisect_right(over, moment))) for moment in moments]
