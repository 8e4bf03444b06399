"""Steps planned before the results of the one before them are there, step by literal step."""

from __future__ import annotations

import pytest
from host_model import make_request

from jaxpaged.buckets import BucketTable
from jaxpaged.plan import StepPlan
from jaxpaged.request import PENDING, FinishReason, RequestState, TokenEvent
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig

BUCKETS = BucketTable.build(max_rows=2, max_step_tokens=16, min_rows=2, min_step_tokens=8)


def make(*, blocks: int = 20) -> Scheduler:
    config = SchedulerConfig(max_rows=2, max_step_tokens=16, max_model_len=40, chunk_align=4)
    return Scheduler(config, KVPoolSpec(block_size=4, num_blocks=blocks), BUCKETS)


def launch(scheduler: Scheduler) -> StepPlan:
    plan = scheduler.plan()
    assert plan is not None
    scheduler.launch(plan)
    scheduler.check()
    return plan


def rows(plan: StepPlan) -> list[tuple[str, int, int, bool]]:
    return [(row.request.id, row.start, row.length, row.samples) for row in plan.rows]


def test_the_next_step_goes_on_from_a_token_that_nobody_knows_yet() -> None:
    scheduler = make()
    request = make_request("a", [1, 2, 3], max_tokens=3)
    scheduler.submit(request)
    first = launch(scheduler)
    assert (request.tokens, request.num_computed) == ([1, 2, 3, PENDING], 3)
    second = launch(scheduler)
    assert rows(second) == [("a", 3, 1, True)]
    assert request.tokens == [1, 2, 3, PENDING, PENDING]
    assert scheduler.commit(first, [7]) == [TokenEvent(request_id="a", token=7)]
    assert request.tokens == [1, 2, 3, 7, PENDING]
    third = launch(scheduler)
    assert rows(third) == [("a", 4, 1, True)]
    assert scheduler.commit(second, [8]) == [TokenEvent(request_id="a", token=8)]
    assert scheduler.plan() is None  # its third token, the last one, is on its way
    assert scheduler.has_work
    assert scheduler.commit(third, [9]) == [TokenEvent(request_id="a", token=9, finish=FinishReason.LENGTH)]
    assert request.tokens == [1, 2, 3, 7, 8, 9]
    assert not scheduler.has_work


def test_a_stop_is_seen_one_step_late_and_the_token_after_it_dropped() -> None:
    scheduler = make()
    request = make_request("a", [1, 2, 3], max_tokens=9, eos=[7])
    other = make_request("b", [1], max_tokens=9)
    for submitted in (request, other):
        scheduler.submit(submitted)
    first = launch(scheduler)
    late = launch(scheduler)
    assert rows(late) == [("a", 3, 1, True), ("b", 1, 1, True)]
    # the plan sorts rows of one token first, and b's prompt has one
    assert rows(first) == [("b", 0, 1, True), ("a", 0, 3, True)]
    events = scheduler.commit(first, [5, 7])
    assert events[1] == TokenEvent(request_id="a", token=7, finish=FinishReason.STOP)
    assert (request.tokens, request.block_ids, request.seat) == ([1, 2, 3, 7], [], -1)
    assert scheduler.commit(late, [6, 6]) == [TokenEvent(request_id="b", token=6)]
    assert request.tokens == [1, 2, 3, 7]
    scheduler.check()


def test_a_row_is_free_as_soon_as_a_last_token_is_on_its_way() -> None:
    scheduler = make()
    for name in ("a", "b", "c"):
        scheduler.submit(make_request(name, [1, 2], max_tokens=1 if name == "a" else 5))
    first = launch(scheduler)
    assert rows(first) == [("a", 0, 2, True), ("b", 0, 2, True)]
    second = launch(scheduler)
    assert rows(second) == [("b", 2, 1, True), ("c", 0, 2, True)]
    assert scheduler.num_running == 3  # a keeps seat and blocks until its token is there
    scheduler.commit(first, [5, 5])
    assert scheduler.num_running == 2
    scheduler.check()


def test_a_preempted_request_gets_the_token_that_was_on_its_way() -> None:
    scheduler = make(blocks=5)
    old, young = (make_request(name, [1] * 7, max_tokens=6) for name in ("old", "young"))
    for request in (old, young):
        scheduler.submit(request)
    steps = [launch(scheduler), launch(scheduler)]
    scheduler.commit(steps[0], [5, 6])
    third = scheduler.plan()  # the old one begins its third block, and the four are taken
    assert third is not None
    assert rows(third) == [("old", 8, 1, True)]
    scheduler.launch(third)
    assert (young.state, young.tokens[7:], young.block_ids) == (RequestState.WAITING, [6, PENDING], [])
    assert rows(launch(scheduler)) == [("old", 9, 1, True)]  # it waits for its token
    assert scheduler.commit(steps[1], [5, 8])[1] == TokenEvent(request_id="young", token=8)
    assert young.tokens[7:] == [6, 8]
    scheduler.check()


def test_a_request_that_only_waits_for_its_last_token_gives_up_its_blocks_first() -> None:
    scheduler = make(blocks=5)
    old, young = make_request("old", [1] * 7, max_tokens=6), make_request("young", [1] * 7, max_tokens=2)
    for request in (old, young):
        scheduler.submit(request)
    steps = [launch(scheduler), launch(scheduler)]
    scheduler.commit(steps[0], [5, 6])
    assert young.has_all_tokens
    assert rows(launch(scheduler)) == [("old", 8, 1, True)]
    assert (young.block_ids, scheduler.num_preemptions) == ([], 0)
    events = scheduler.commit(steps[1], [5, 8])
    assert events[1] == TokenEvent(request_id="young", token=8, finish=FinishReason.LENGTH)
    scheduler.check()


@pytest.mark.parametrize("state", ["running", "waiting"])
def test_a_row_that_is_not_finite_ends_a_request_in_any_state(state: str) -> None:
    scheduler = make(blocks=5 if state == "waiting" else 20)
    for name in ("good", "bad"):
        scheduler.submit(make_request(name, [1] * 7, max_tokens=6))
    steps = [launch(scheduler), launch(scheduler)]
    scheduler.commit(steps[0], [5, 6])
    launch(scheduler)
    assert scheduler.num_waiting == (state == "waiting")
    events = scheduler.commit(steps[1], [5, 8], finite=[True, False])
    assert [(event.request_id, event.finish) for event in events] == [("good", None), ("bad", FinishReason.ERROR)]
    assert (scheduler.num_running, scheduler.num_waiting) == (1, 0)
    scheduler.check()
