"""Upper bounds of the histograms: vLLM 0.33's (v1/metrics/buckets.py), so that dashboards and alerts fit both."""

from __future__ import annotations

REQUEST_SECONDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
"""Of a request's phases and the whole."""

FIRST_TOKEN_SECONDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)

TOKEN_GAP_SECONDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)

CHOICES = (1, 2, 5, 10, 20)
"""Of the parameter n."""


def token_counts(longest: int) -> tuple[int, ...]:
    """1, 2, 5, 10, ... up to the longest context, in tokens; at least one bound."""
    bounds: list[int] = []
    scale = 1
    while True:
        for mantissa in (1, 2, 5):
            if mantissa * scale > longest and bounds:
                return tuple(bounds)
            bounds.append(mantissa * scale)
        scale *= 10
