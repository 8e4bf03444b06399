"""Waiting at the door, with asyncio and in fake time: turns, deadlines, cancellations, and what a request costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import process_time
from typing import Any

import pytest
from admission_door import A, B, Clock, assert_empty, enter, line_up, opened, refused, states
from fake_time import DeadlockError, now, run
from jaxpaged_server.access.keys import ANONYMOUS, Key
from jaxpaged_server.admission.admission import REASONS, Admission
from jaxpaged_server.admission.limits import AdmissionConfig
from jaxpaged_server.admission.ticket import Ticket, TicketState
from jaxpaged_server.refusals import DeadlineError, NotReadyError, QueueFullError


def in_time(scenario: Callable[[Admission], Coroutine[Any, Any, None]], *keys: Key) -> None:
    async def main() -> None:
        await scenario(opened(*keys, clock=now))

    run(main())


def test_waiting_ends_when_a_place_is_free() -> None:
    async def scenario(admission: Admission) -> None:
        async def client(number: int) -> tuple[float, float | None]:
            with await enter(admission, ANONYMOUS) as ticket:
                assert ticket.entered_s == now()
                await asyncio.sleep(10 + number)
            return ticket.came_s, ticket.entered_s

        times = await asyncio.gather(*(client(number) for number in range(8)))
        assert times == [*[(0.0, 0.0)] * 6, (0.0, 10.0), (0.0, 11.0)]
        assert_empty(admission)

    in_time(scenario)


def test_a_deadline_ends_the_waiting() -> None:
    async def scenario(admission: Admission) -> None:
        inside = line_up(admission, ANONYMOUS, 6)
        with pytest.raises(DeadlineError, match=r"seconds waited is 2\.5"):
            await enter(admission, ANONYMOUS, deadline_s=2.5)
        assert now() == 2.5
        for ticket in inside:
            ticket.release()
        assert_empty(admission)
        assert admission.rejections == {**dict.fromkeys(REASONS, 0), "deadline": 1}

    in_time(scenario)


def test_a_deadline_lets_those_behind_go() -> None:
    async def scenario(admission: Admission) -> None:
        config = AdmissionConfig(max_num_seqs=8, max_num_batched_tokens=64, max_model_len=100)
        admission.ready(config)
        line_up(admission, A, 2, tokens=30)
        long = asyncio.create_task(enter(admission, A, 100, deadline_s=2.0))
        short = asyncio.create_task(enter(admission, A, 4))
        ticket = await short
        assert ticket.entered_s == 2.0
        with pytest.raises(DeadlineError):
            await long

    in_time(scenario, A, B)


def test_no_timer_stays_behind() -> None:
    async def scenario(admission: Admission) -> None:
        (first, *_) = line_up(admission, ANONYMOUS, 6)
        task = asyncio.create_task(enter(admission, ANONYMOUS, deadline_s=1000.0))
        await asyncio.sleep(1)
        first.release()
        (await task).release()
        timers = asyncio.get_running_loop()._scheduled  # pyright: ignore[reportAttributeAccessIssue]
        assert all(timer.cancelled() for timer in timers)

    in_time(scenario)


def test_a_client_that_leaves_while_it_waits_leaves_nothing() -> None:
    async def scenario(admission: Admission) -> None:
        inside = line_up(admission, ANONYMOUS, 6)
        tasks = [asyncio.create_task(enter(admission, ANONYMOUS)) for _ in range(3)]
        await asyncio.sleep(1)
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        assert admission.num_waiting == 2
        for ticket in inside:
            ticket.release()
        for task in (tasks[0], tasks[2]):
            (await task).release()
        assert_empty(admission)

    in_time(scenario)


def test_a_turn_that_comes_together_with_the_cancellation_goes_to_the_next() -> None:
    async def scenario(admission: Admission) -> None:
        inside = line_up(admission, ANONYMOUS, 6)
        first, second = (asyncio.create_task(enter(admission, ANONYMOUS)) for _ in range(2))
        await asyncio.sleep(1)
        inside[0].release()  # the first one's turn, but
        first.cancel()  # it does not live to see it
        with pytest.raises(asyncio.CancelledError):
            await first
        (await second).release()
        line_up(admission, ANONYMOUS, 1)
        third = asyncio.create_task(enter(admission, ANONYMOUS))
        await asyncio.sleep(1)
        third.cancel()  # and the other way round
        inside[1].release()
        with pytest.raises(asyncio.CancelledError):
            await third
        assert (admission.num_inside, admission.num_waiting) == (5, 0)
        admission.check()

    in_time(scenario)


def test_abort_all_wakes_those_that_wait() -> None:
    async def scenario(admission: Admission) -> None:
        inside = line_up(admission, ANONYMOUS, 6)
        tasks = [asyncio.create_task(enter(admission, ANONYMOUS)) for _ in range(3)]
        await asyncio.sleep(1)
        assert admission.abort_all("the operator ended all requests") == 3
        for task in tasks:
            with pytest.raises(NotReadyError, match="the operator ended all requests"):
                await task
        assert states(inside) == "IIIIII"
        assert admission.rejections["aborted"] == 3
        assert admission.abort_all() == 0

    in_time(scenario)


def test_those_that_were_taken_before_a_drain_are_served() -> None:
    async def scenario(admission: Admission) -> None:
        async def client() -> None:
            with await enter(admission, ANONYMOUS):
                await asyncio.sleep(10)

        tasks = [asyncio.create_task(client()) for _ in range(8)]
        await asyncio.sleep(1)
        admission.drain()
        with pytest.raises(NotReadyError, match="shutting down"):
            await enter(admission, ANONYMOUS)
        await asyncio.gather(*tasks)
        assert now() == 20.0
        assert_empty(admission)

    in_time(scenario)


def test_these_tests_would_see_a_lost_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ticket, "wake", lambda self: None)
    with pytest.raises(DeadlockError):
        test_waiting_ends_when_a_place_is_free()


def test_a_request_costs_little_and_a_refusal_less() -> None:
    async def main() -> tuple[float, float]:
        admission = opened(clock=now)
        start = process_time()
        for _ in range(10_000):
            with await enter(admission, ANONYMOUS):
                pass
        used = process_time() - start
        tickets = line_up(admission, ANONYMOUS, 22)
        start = process_time()
        for _ in range(1000):
            try:
                admission.line_up(ANONYMOUS, prompt_tokens=(10,))
            except QueueFullError:
                continue
            pytest.fail("the queue is not full")
        refusal_s = (process_time() - start) / 1000
        for ticket in tickets:
            ticket.release()
        assert_empty(admission)
        return used, refusal_s

    times = [run(main()) for _ in range(3)]
    assert min(used for used, _ in times) < 0.2
    assert min(refusal_s for _, refusal_s in times) < 50e-6


def test_a_request_too_late_for_its_deadline_is_refused() -> None:
    clock = Clock()
    admission = opened(clock=clock)
    clock.now = 5.0
    refused(DeadlineError, admission, ANONYMOUS, deadline_s=5.0)
    assert admission.rejections["deadline"] == 1


def test_a_turn_after_the_deadline_goes_to_the_next() -> None:
    """Where the timer has not run yet: nothing that is late reaches the engine."""
    clock = Clock()
    admission = opened(clock=clock)
    inside = line_up(admission, ANONYMOUS, 6)
    (late,) = admission.line_up(ANONYMOUS, prompt_tokens=(10,), deadline_s=3.0)
    (next_one,) = admission.line_up(ANONYMOUS, prompt_tokens=(10,))
    clock.now = 3.0
    inside[0].release()
    assert (late.state, next_one.state) == (TicketState.OUT, TicketState.INSIDE)
    assert isinstance(late.error, DeadlineError)
    assert str(late.error).startswith("seconds waited is 3.0: the request's time ran out before its turn came")
    admission.check()
