"""When the load generator sends: rates, burstiness, ramps; and that it does not wait for a slow server."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxpaged_server.load.arrivals import Arrivals, RampUp

from jaxpaged.errors import ConfigError


def gaps(arrivals: Arrivals, count: int, seed: int = 0) -> list[float]:
    offsets = arrivals.offsets(count, Random(seed))
    return [after - before for before, after in pairwise([0.0, *offsets])]


def test_an_infinite_rate_sends_all_at_once() -> None:
    assert Arrivals().offsets(4, Random(0)) == [0.0, 0.0, 0.0, 0.0]


def test_infinite_burstiness_is_a_metronome() -> None:
    assert Arrivals(rate=4.0, burstiness=math.inf).offsets(4, Random(0)) == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize(("burstiness", "spread"), [(1.0, 1.0), (0.25, 2.0), (4.0, 0.5), (100.0, 0.1)])
def test_gaps_have_the_mean_of_the_rate_and_the_spread_of_the_burstiness(burstiness: float, spread: float) -> None:
    found = gaps(Arrivals(rate=20.0, burstiness=burstiness), 20_000)
    assert mean(found) == pytest.approx(1 / 20)  # exactly: the last one comes at count / rate
    assert stdev(found) * 20 == pytest.approx(spread, rel=0.05)


def test_poisson_gaps_are_exponential() -> None:
    found = gaps(Arrivals(rate=1.0), 20_000)
    for time_s in (0.1, 1.0, 3.0):
        assert sum(gap > time_s for gap in found) / 20_000 == pytest.approx(math.exp(-time_s), abs=0.01)


def test_the_seed_decides() -> None:
    arrivals = Arrivals(rate=3.0)
    assert arrivals.offsets(50, Random(1)) == arrivals.offsets(50, Random(1))
    assert arrivals.offsets(50, Random(1)) != arrivals.offsets(50, Random(2))


@given(rate=st.floats(0.01, 1e4), burstiness=st.floats(0.1, 100), count=st.integers(1, 200), seed=st.integers(0, 2**32))
def test_offsets_ascend_and_end_at_count_over_rate(rate: float, burstiness: float, count: int, seed: int) -> None:
    offsets = Arrivals(rate=rate, burstiness=burstiness).offsets(count, Random(seed))
    assert len(offsets) == count
    assert offsets == sorted(offsets)
    assert offsets[-1] == pytest.approx(count / rate)


def test_a_linear_ramp_adds_the_same_to_the_rate_with_every_request() -> None:
    ramp = RampUp(strategy="linear", start_rps=2.0, end_rps=10.0)
    assert [ramp.rate(progress) for progress in (0.0, 0.25, 1.0)] == [2.0, 4.0, 10.0]
    assert gaps(Arrivals(burstiness=math.inf, ramp_up=ramp), 5) == pytest.approx([1 / 2, 1 / 4, 1 / 6, 1 / 8, 1 / 10])


def test_an_exponential_ramp_multiplies_it() -> None:
    ramp = RampUp(strategy="exponential", start_rps=1.0, end_rps=16.0)
    assert gaps(Arrivals(burstiness=math.inf, ramp_up=ramp), 5) == pytest.approx([1, 1 / 2, 1 / 4, 1 / 8, 1 / 16])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Arrivals(rate=0.0), "--request-rate is 0.0: it must be above 0"),
        (lambda: Arrivals(rate=math.nan), "--request-rate is nan"),
        (lambda: Arrivals(burstiness=-1.0), "--burstiness is -1.0: it must be above 0"),
        (lambda: RampUp(strategy="steep", start_rps=1, end_rps=2), "--ramp-up-strategy is 'steep'"),
        (lambda: RampUp(strategy="linear", start_rps=0, end_rps=2), "--ramp-up-start-rps is 0"),
        (lambda: RampUp(strategy="linear", start_rps=3, end_rps=2), "--ramp-up-end-rps is 2"),
        (lambda: RampUp(strategy="linear", start_rps=3, end_rps=math.inf), "--ramp-up-end-rps is inf"),
        (
            lambda: Arrivals(rate=5.0, ramp_up=RampUp(strategy="linear", start_rps=1, end_rps=2)),
            "a ramp sets the rate",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: object, told: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=told):
        make()
