"""What counts as a hung engine, and what does not."""

from __future__ import annotations

import pytest
from fake_engine import beat
from jaxpaged_server.engine_process.watchdog import Watchdog, WatchLimits

from jaxpaged.errors import ConfigError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A watchdog that is asked every 250 ms."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.dog = Watchdog(WatchLimits(), clock=self.clock)
        self.heard_at = self.clock.now

    def ask(self, *, heard: bool) -> str | None:
        if heard:
            self.heard_at = self.clock.now
        return self.dog.trouble(heard_at=self.heard_at)

    def wait(self, seconds: float, *, heard: bool) -> str | None:
        for _ in range(int(seconds / 0.25)):
            self.clock.now += 0.25
            if trouble := self.ask(heard=heard):
                return trouble
        return None


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_start_may_be_silent_for_half_an_hour(watched: Watched) -> None:
    assert watched.wait(1800, heard=False) is None
    trouble = watched.wait(1, heard=False)
    assert trouble == "nothing was heard of it for 1800.2 s; 1800 s are allowed"


def test_a_ready_engine_may_be_silent_for_ten_seconds(watched: Watched) -> None:
    assert watched.wait(60, heard=False) is None
    watched.dog.ready()
    assert watched.wait(100, heard=True) is None
    assert watched.wait(10, heard=False) is None
    assert watched.wait(0.25, heard=False) == "nothing was heard of it for 10.2 s; 10 s are allowed"


def test_silence_while_nobody_listened_does_not_count(watched: Watched) -> None:
    watched.dog.ready()
    assert watched.wait(9, heard=False) is None
    watched.clock.now += 60  # the front end was held up
    assert watched.ask(heard=False) is None
    assert watched.wait(1, heard=False) is None
    assert watched.wait(0.25, heard=False) is not None


def test_nor_where_something_was_heard_just_before(watched: Watched) -> None:
    watched.dog.ready()
    assert watched.wait(9, heard=True) is None
    watched.clock.now += 0.1
    watched.heard_at = watched.clock.now  # after the last check
    watched.clock.now += 60  # the machine stood still
    assert watched.ask(heard=False) is None
    assert watched.wait(9.75, heard=False) is None
    assert watched.wait(0.5, heard=False) is not None


@pytest.mark.parametrize(
    ("age_s", "full_s", "allowed_s"),
    [
        (9.9, 0.05, None),
        (10.1, 0.05, 10.0),  # twenty steps would be a second
        (39.9, 2.0, None),
        (40.1, 2.0, 40.0),
        (299.0, 0.0, None),  # the first step
        (300.1, 0.0, 300.0),
    ],
)
def test_how_long_a_step_may_take(watched: Watched, age_s: float, full_s: float, allowed_s: float | None) -> None:
    watched.dog.ready()
    watched.dog.beat(beat(step_age_s=age_s, full_step_s=full_s))
    expected = allowed_s and f"a step has not returned for {age_s:.1f} s; {allowed_s:.1f} s are allowed"
    assert watched.ask(heard=True) == expected


def test_limits_are_above_zero() -> None:
    with pytest.raises(ConfigError, match="step_s is 0"):
        WatchLimits(step_s=0)
