"""What is measured of an answer's tokens."""

from __future__ import annotations

import time

import pytest
from jaxpaged_server.meter import Meter
from jaxpaged_server.metrics.registry import ServerMetrics

from jaxpaged.request import FinishReason


def test_gaps_are_those_between_tokens_however_many_are_told_at_once() -> None:
    metrics = ServerMetrics("tiny")
    meter = Meter(metrics, model="tiny", key="", prompt_tokens=3, max_tokens=9, n=1)
    began = time.monotonic()
    meter.admitted()
    meter.tokens([began + 1.0], queue_s=0.25)
    meter.tokens([began + 1.1, began + 1.4])
    meter.tokens([began + 2.0, began + 2.0])  # of two steps that were read together
    meter.tokens([])
    figures = meter.end(FinishReason.LENGTH, cached_tokens=0)
    assert figures.generation_tokens == 5
    assert figures.ttft_s == pytest.approx(1.0, abs=0.01)
    assert figures.decode_s == pytest.approx(1.0)
    gaps = metrics.requests.gaps
    assert gaps.count == 4
    assert gaps.total == pytest.approx(1.0)
    assert metrics.requests.first_tokens.count == 1
    shown = sorted(round(seconds, 6) for _, seconds in metrics.gaps.points(began + 3))
    assert shown == pytest.approx([0.1, 0.3, 0.3])
