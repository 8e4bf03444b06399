"""The measure of overload, on runs made by hand and on an endpoint that refuses what it has no room for."""

from __future__ import annotations

import asyncio
import math

import pytest
from jaxpaged_server.load.outcome import End, Outcome
from jaxpaged_server.load.run import Run
from overload import Target, goodput_rps, others, overload, p99_ttft_s, recovery_s, refusals
from stub_openai import StubServer


def outcome(began_s: float, ttft_s: float | None, *, end: End = End.DONE, took_s: float = 0.0) -> Outcome:
    made = Outcome(index=0, due_s=began_s, began_s=began_s)
    if ttft_s is None:
        made.fail("HTTP 429" if end is End.REFUSED else "timeout", "", began_s + took_s, end=end)
    else:
        made.add(1, began_s + ttft_s)
        made.ended_s, made.end = began_s + ttft_s + took_s, end
    return made


def run_of(*outcomes: Outcome, duration_s: float = 10.0) -> Run:
    return Run(outcomes=outcomes, duration_s=duration_s, interrupted=False)


def test_refusals_are_told_by_their_times() -> None:
    refused = [outcome(0.0, None, end=End.REFUSED, took_s=ms / 1000) for ms in range(1, 102)]
    refused[0].retry_after_s = 2.0
    found = refusals(run_of(*refused, outcome(0.0, 0.1), outcome(0.0, None, end=End.FAILED)))
    assert (found.count, found.with_retry_after) == (101, 1)
    assert (found.p50_ms, found.p99_ms) == (pytest.approx(51), pytest.approx(100))
    assert math.isnan(refusals(run_of()).p99_ms)


def test_goodput_counts_answers_in_time() -> None:
    run = run_of(
        outcome(0.0, 0.1, took_s=1.0),
        outcome(0.0, 0.9, took_s=1.0),
        outcome(9.0, 0.1, took_s=5.0),
        outcome(0.0, None, end=End.FAILED),
        duration_s=15.0,
    )
    assert goodput_rps(run) == 3 / 15
    assert goodput_rps(run, within_s=10.0) == 2 / 10
    assert goodput_rps(run, within_s=10.0, ttft_s=0.5) == 1 / 10
    assert others(run) == {"timeout": 1}
    assert p99_ttft_s(run_of()) == math.inf


@pytest.mark.parametrize(
    ("ttfts_s", "recovered_s"),
    [
        ([0.1, 0.1, 0.1], 0.0),
        ([0.9, 0.1, 0.1], 1.0),
        ([0.1, 0.9, 0.1], 2.0),  # well, ill again, well
        ([0.9, 0.9, 0.9], None),
        ([None, 0.1, 0.1], 1.0),  # not answered is not well
    ],
)
def test_recovery_is_the_end_of_the_last_bad_second(ttfts_s: list[float | None], recovered_s: float | None) -> None:
    outcomes = [
        outcome(second + tenth / 10, ttft_s, end=End.FAILED if ttft_s is None else End.DONE)
        for second, ttft_s in enumerate(ttfts_s)
        for tenth in range(10)
    ]
    assert recovery_s(run_of(*outcomes), limit_s=0.5) == recovered_s


def test_an_endpoint_that_refuses_what_it_has_no_room_for() -> None:
    with StubServer(ttft_s=0.05, slots=2) as server:
        target = Target(url=server.url, model="stub", input_len=4, output_len=1)
        found = asyncio.run(overload(target, concurrency=2, count=10, times=8.0, seconds=0.5, watched_s=0.5))
    assert 2 < found.capacity_rps <= 40.0  # two places of 0.05 s
    assert found.offered_rps == 8 * found.capacity_rps
    assert found.calm_p99_ttft_ms >= 50.0
    assert found.others == {}
    assert found.refusals.count > 0
    assert found.refusals.with_retry_after == found.refusals.count
    assert 0 < found.refusals.p50_ms <= found.refusals.p99_ms
    assert 0 < found.goodput_rps <= 44.0
