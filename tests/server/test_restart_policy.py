"""How often an engine is started again, and after how long."""

from __future__ import annotations

import pytest
from jaxpaged_server.engine_process.restart_policy import RestartPolicy


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_three_restarts_in_ten_minutes_and_no_fourth(clock: Clock) -> None:
    policy = RestartPolicy(clock=clock)
    found = []
    for _ in range(4):
        found.append(policy.next_delay())
        clock.now += 30
    assert found == [1.0, 5.0, 25.0, None]
    assert policy.num_recent == 3


def test_what_is_ten_minutes_old_is_forgotten(clock: Clock) -> None:
    policy = RestartPolicy(clock=clock)
    assert [policy.next_delay() for _ in range(3)] == [1.0, 5.0, 25.0]
    clock.now = 599.9
    assert policy.next_delay() is None
    clock.now = 600.0
    assert policy.num_recent == 0
    assert policy.next_delay() == 1.0


def test_one_restart_every_five_minutes_goes_on_for_ever(clock: Clock) -> None:
    policy = RestartPolicy(clock=clock)
    for _ in range(20):
        assert policy.next_delay() in (1.0, 5.0)
        clock.now += 300


def test_a_refusal_does_not_count_as_a_restart(clock: Clock) -> None:
    policy = RestartPolicy(delays_s=(2.0,), window_s=10.0, clock=clock)
    assert policy.next_delay() == 2.0
    for clock.now in (5.0, 9.0):
        assert policy.next_delay() is None
    clock.now = 10.0
    assert policy.next_delay() == 2.0


def test_no_delays_is_no_restart(clock: Clock) -> None:
    assert RestartPolicy(delays_s=(), clock=clock).next_delay() is None
