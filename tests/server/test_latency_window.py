from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxpaged_server.metrics.latency_window import SLOT_SAMPLES, LatencyWindow
from jaxpaged_server.metrics.registry import ServerMetrics


def test_points_and_percentiles_of_few_samples_are_exact() -> None:
    window = LatencyWindow()
    for at, seconds in ((10.0, 0.4), (10.5, 0.1), (12.0, 0.3), (13.0, 0.2)):
        window.add(at, seconds)
    assert window.points(13.0) == [[10.0, 0.4], [10.5, 0.1], [12.0, 0.3], [13.0, 0.2]]
    assert window.points(13.0, shift_s=100.0)[0] == [110.0, 0.4]
    assert window.percentiles(13.0, (0.0, 0.25, 0.5, 0.51, 0.75, 0.99, 1.0)) == [0.1, 0.1, 0.2, 0.3, 0.3, 0.4, 0.4]
    assert window.count(13.0) == 4


def test_nothing_has_no_percentiles() -> None:
    window = LatencyWindow()
    assert window.percentiles(0.0, (0.5,)) is None
    assert window.points(0.0) == []
    assert window.count(0.0) == 0


def test_old_samples_are_forgotten() -> None:
    window = LatencyWindow(horizon_s=10.0)
    for second in range(30):
        window.add(float(second), float(second))
    assert [at for at, _ in window.points(29.0)] == [float(second) for second in range(19, 30)]
    assert window.percentiles(29.0, (0.0,)) == [19.0]
    assert window.points(1000.0) == []


def test_a_busy_second_keeps_a_fair_draw_and_counts_for_all() -> None:
    window = LatencyWindow(draw=random.Random(5))
    for i in range(10_000):
        window.add(i / 10_000, 0.5 if i % 4 else 2.0)
    window.add(1.0, 9.0)
    assert window.count(1.0) == 10_001
    assert len(window.points(1.0)) == SLOT_SAMPLES + 1
    # the one sample of the next second stands for itself alone
    assert window.percentiles(1.0, (0.5, 0.99, 1.0)) == [0.5, 2.0, 9.0]


def test_every_sample_of_a_second_is_as_likely_to_be_kept() -> None:
    kept = [0] * 64
    draw = random.Random(1)
    for _ in range(600):
        window = LatencyWindow(draw=draw)
        for i in range(64):
            window.add(0.0, float(i))
        for _, seconds in window.points(0.0):
            kept[int(seconds)] += 1
    assert sum(kept) == 600 * SLOT_SAMPLES
    assert 100 < min(kept) <= max(kept) < 200  # 150 on the average, with a deviation of 11


def test_a_clock_that_goes_back_does_no_harm() -> None:
    window = LatencyWindow()
    window.add(10.0, 1.0)
    window.add(3.0, 2.0)
    assert window.count(10.0) == 2


@given(st.lists(st.tuples(st.floats(0, 2000), st.floats(0, 10)), max_size=200))
def test_it_is_bounded_and_its_percentiles_ascend(samples: list[tuple[float, float]]) -> None:
    window = LatencyWindow(horizon_s=50.0)
    for at, seconds in sorted(samples):
        window.add(at, seconds)
    now = max((at for at, _ in samples), default=0.0)
    assert len(window._slots) <= 52
    found = window.percentiles(now, (0.0, 0.5, 0.9, 1.0))
    if found is not None:
        assert found == sorted(found)
        assert {*found} <= {seconds for _, seconds in samples}


def test_the_server_shows_both_latencies_on_the_wall_clock() -> None:
    now = [50.0]
    metrics = ServerMetrics("tiny", clock=lambda: now[0], wall_clock=lambda: 1_700_000_000.0 + now[0])
    metrics.on_first_token(0.5)
    now[0] = 51.0
    metrics.on_tokens(2, 0.5)
    shown = metrics.latencies()
    assert shown["ttft"] == {"count": 1, "percentiles": [0.5, 0.5, 0.5], "points": [[1_700_000_050.0, 0.5]]}
    assert shown["itl"] == {"count": 1, "percentiles": [0.25, 0.25, 0.25], "points": [[1_700_000_051.0, 0.25]]}
    now[0] = 500.0
    assert metrics.latencies()["ttft"] == {"count": 0, "percentiles": None, "points": []}


def test_a_share_is_a_share() -> None:
    window = LatencyWindow()
    window.add(0.0, 1.0)
    with pytest.raises(AssertionError, match="50"):
        window.percentiles(0.0, (50,))
