"""How the values of each metric lie: worked out once, for the result, the table and the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from jaxpaged_server.load.outcome import Outcome

METRICS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "ttft": ("TTFT", "Time to First Token"),
        "tpot": ("TPOT", "Time per Output Token (excl. 1st token)"),
        "itl": ("ITL", "Inter-token Latency"),
        "e2el": ("E2EL", "End-to-end Latency"),
        "client_queue_time": ("Client Queue Time", "Client-side Queueing"),
        "e2el_including_client_queue": ("E2EL incl. Client Queue", "Queue-inclusive End-to-end Latency"),
    }
)
"""What percentiles are of: the name, how it is called in the table, and its heading there."""
MARKS = (50.0, 90.0, 99.0)
"""Percentiles that the page draws."""
COLUMNS = (0.0, *MARKS, 99.9, 100.0)
"""Percentiles that the page's table has; the first and the last are the least and the most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Values of one metric, at least one of them. percentiles: by percent, those of COLUMNS and those asked for."""

    values_ms: Sequence[float]
    mean_ms: float
    std_ms: float
    percentiles_ms: Mapping[float, float]


def spreads(outcomes: Sequence[Outcome], percents: Iterable[float]) -> dict[str, Spread]:
    """Of every metric that has a value, over the requests that are done. percents: what to tell beside COLUMNS."""
    wanted = sorted({*COLUMNS, *percents})
    found: dict[str, Spread] = {}
    for metric in METRICS:
        values_ms = 1000 * np.asarray(_values_s(metric, outcomes))
        if values_ms.size:
            found[metric] = Spread(
                values_ms=values_ms.tolist(),
                mean_ms=float(values_ms.mean()),
                std_ms=float(values_ms.std()),
                percentiles_ms=dict(zip(wanted, np.percentile(values_ms, wanted).tolist(), strict=True)),
            )
    return found


def _values_s(metric: str, outcomes: Iterable[Outcome]) -> list[float]:
    """In seconds: one value a request, of itl one a pair of events."""
    done = [outcome for outcome in outcomes if outcome.is_done]
    match metric:
        case "ttft":
            return [outcome.ttft_s for outcome in done]
        case "tpot":
            return [tpot for outcome in done if (tpot := outcome.tpot_s) is not None]
        case "itl":
            return [gap for outcome in done for gap in outcome.gaps_s]
        case "e2el":
            return [outcome.latency_s for outcome in done]
        case "client_queue_time":
            return [outcome.queue_s for outcome in done]
        case _:
            return [outcome.queue_s + outcome.latency_s for outcome in done]
