"""The scheduler's policy, step by literal step."""

from __future__ import annotations

from typing import Any

import pytest
from host_model import make_request

from jaxpaged.buckets import BucketTable
from jaxpaged.errors import CapacityError, ConfigError, ContextLengthError, RequestError
from jaxpaged.plan import StepPlan
from jaxpaged.request import FinishReason, Logprob, RequestState, TokenEvent
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig

BUCKETS = BucketTable.build(max_rows=4, max_step_tokens=16, min_rows=2, min_step_tokens=8)


def make(*, blocks: int = 20, windows: tuple[int | None, ...] = (None,), **options: object) -> Scheduler:
    limits: dict[str, object] = {"max_rows": 4, "max_step_tokens": 16, "max_model_len": 40, "chunk_align": 4}
    config = SchedulerConfig(**(limits | options))  # pyright: ignore[reportArgumentType]
    pool = KVPoolSpec(block_size=4, num_blocks=1 + (blocks - 1) * len(windows), windows=windows)
    return Scheduler(config, pool, BUCKETS, clock=lambda: 7.0)


def rows(plan: StepPlan | None) -> list[tuple[str, int, int, bool]]:
    assert plan is not None
    return [(row.request.id, row.start, row.length, row.samples) for row in plan.rows]


def run(scheduler: Scheduler, plan: StepPlan, tokens: list[int], **results: Any) -> list[TokenEvent]:
    """Launch a step and take in its results at once."""
    scheduler.launch(plan)
    return scheduler.commit(plan, tokens, **results)


def step(scheduler: Scheduler, token: int = 9) -> tuple[list[tuple[str, int, int, bool]], list[TokenEvent]]:
    plan = scheduler.plan()
    assert plan is not None
    events = run(scheduler, plan, [token] * len(plan.rows))
    scheduler.check()
    return rows(plan), events


def test_a_life_from_prompt_to_length() -> None:
    scheduler = make()
    request = make_request("a", [1, 2, 3], max_tokens=2)
    scheduler.submit(request)
    assert (scheduler.num_waiting, scheduler.num_running, scheduler.has_work) == (1, 0, True)
    plan = scheduler.plan()
    assert plan is not None
    assert rows(plan) == [("a", 0, 3, True)]
    assert (plan.bucket.tokens, plan.bucket.rows) == (8, 4)
    assert run(scheduler, plan, [5]) == [TokenEvent(request_id="a", token=5)]
    plan = scheduler.plan()
    assert plan is not None
    assert rows(plan) == [("a", 3, 1, True)]
    assert (plan.bucket.tokens, plan.bucket.rows) == (2, 2)
    assert run(scheduler, plan, [6]) == [TokenEvent(request_id="a", token=6, finish=FinishReason.LENGTH)]
    assert (request.tokens, request.state, request.finish) == (
        [1, 2, 3, 5, 6],
        RequestState.FINISHED,
        FinishReason.LENGTH,
    )
    assert not scheduler.has_work
    assert scheduler.plan() is None
    scheduler.check()


def test_chunks_end_at_multiples_and_decode_rows_come_first() -> None:
    scheduler = make()
    scheduler.submit(make_request("long", [1] * 31, max_tokens=2))
    assert step(scheduler)[0] == [("long", 0, 16, False)]  # alone it takes all
    scheduler.submit(make_request("short", [2] * 3, max_tokens=4))
    assert step(scheduler)[0] == [("long", 16, 12, False), ("short", 0, 3, True)]  # 13 tokens end at no multiple of 4
    assert step(scheduler)[0] == [("short", 3, 1, True), ("long", 28, 3, True)]
    assert step(scheduler)[0] == [("long", 31, 1, True), ("short", 4, 1, True)]


def test_a_long_prompt_does_not_block_short_ones() -> None:
    scheduler = make()
    scheduler.submit(make_request("long", [1] * 38, max_tokens=1))
    for name in ("b", "c"):
        scheduler.submit(make_request(name, [ord(name)] * 6, max_tokens=1))
    assert step(scheduler)[0] == [("long", 0, 8, False), ("b", 0, 6, True)]
    assert step(scheduler)[0] == [("long", 8, 8, False), ("c", 0, 6, True)]
    assert step(scheduler)[0] == [("long", 16, 16, False)]


def test_a_chunk_of_one_token_is_a_row_like_any_other() -> None:
    scheduler = make(prefix_caching=False)
    scheduler.submit(make_request("a", [1] * 17, max_tokens=2))
    step(scheduler)
    plan = scheduler.plan()
    assert rows(plan) == [("a", 16, 1, True)]
    assert plan is not None
    assert plan.bucket.is_decode


def test_a_prompt_goes_on_when_decode_rows_leave_no_whole_chunk() -> None:
    scheduler = make(chunk_align=16)
    for name in ("a", "b"):
        scheduler.submit(make_request(name, [1] * 2, max_tokens=9))
    step(scheduler)
    scheduler.submit(make_request("long", [2] * 20, max_tokens=9))
    assert step(scheduler)[0] == [("a", 2, 1, True), ("b", 2, 1, True)]  # 14 tokens are no chunk: it waits
    scheduler.abort("a")
    scheduler.abort("b")
    assert step(scheduler)[0] == [("long", 0, 16, False)]
    assert step(scheduler)[0] == [("long", 16, 4, True)]


def test_the_oldest_prompt_may_hold_up_younger_rows() -> None:
    scheduler = make(chunk_align=8, long_prompt_share=0.5, max_step_tokens=8)
    scheduler.submit(make_request("long", [2] * 20, max_tokens=9))
    step(scheduler)
    scheduler.submit(make_request("a", [1], max_tokens=9))
    assert step(scheduler)[0] == [("long", 8, 8, False)]
    assert step(scheduler)[0] == [("a", 0, 1, True), ("long", 16, 4, True)]


def test_the_second_request_hits_full_blocks_only() -> None:
    scheduler = make()
    prompt = list(range(12))
    scheduler.submit(make_request("a", prompt, max_tokens=1))
    step(scheduler)
    assert scheduler.ledger().cached == 12
    second = make_request("b", prompt, max_tokens=1)
    third = make_request("c", [*prompt, 5], max_tokens=1)
    fourth = make_request("d", prompt, max_tokens=1, salt="tenant")
    for request in (second, third, fourth):
        scheduler.submit(request)
    # its last token must be computed, so the last full block is not taken
    assert step(scheduler)[0] == [("c", 12, 1, True), ("b", 8, 4, True), ("d", 0, 8, False)]
    assert (second.num_cached, third.num_cached, fourth.num_cached) == (8, 12, 0)
    assert (scheduler.num_prompt_tokens, scheduler.num_cached_tokens) == (12 + 12 + 13 + 12, 20)


def test_prefix_caching_off_and_reset() -> None:
    for scheduler in (make(prefix_caching=False), make()):
        for name in ("a", "b"):
            scheduler.submit(make_request(name, range(12), max_tokens=1))
            step(scheduler)
            scheduler.reset_prefix_cache()
            scheduler.check()
        assert scheduler.num_cached_tokens == 0
        assert scheduler.ledger().cached == 0


def test_the_ledger_of_two_requests_with_a_common_block() -> None:
    scheduler = make(blocks=10)
    for name in ("a", "b"):
        scheduler.submit(make_request(name, [1, 2, 3, 4, ord(name)], max_tokens=4))
        step(scheduler)
    ledger = scheduler.ledger()
    # a: 4 shared + 2 of 4; b: 4 shared + 1 of 4
    assert (ledger.shared, ledger.live, ledger.tail) == (4, 3, 5)
    assert (ledger.cached, ledger.free, ledger.null) == (0, 24, 4)
    assert (ledger.total, ledger.contiguous) == (40, 80)
    scheduler.abort("a")
    scheduler.abort("b")
    ledger = scheduler.ledger()
    assert (ledger.shared, ledger.live, ledger.tail, ledger.cached, ledger.free) == (0, 0, 0, 4, 32)


def test_the_youngest_is_preempted_and_comes_back_first() -> None:
    scheduler = make(blocks=5, prefix_caching=False)
    old, young, late = (make_request(name, [1] * 7, max_tokens=6) for name in "oyl")
    for request in (old, young, late):
        scheduler.submit(request)
    assert step(scheduler)[0] == [("o", 0, 7, True), ("y", 0, 7, True)]
    assert step(scheduler)[0] == [("o", 7, 1, True), ("y", 7, 1, True)]
    assert step(scheduler)[0] == [("o", 8, 1, True)]  # a third block for o is one of y's
    assert (young.state, young.num_preemptions, young.num_computed) == (RequestState.WAITING, 1, 0)
    assert young.tokens == [1] * 7 + [9, 9]
    assert scheduler.num_preemptions == 1
    while old.state is RequestState.RUNNING:
        step(scheduler)
    assert step(scheduler)[0] == [("y", 0, 9, True)]  # all its tokens again, and l must still wait
    assert scheduler.num_prompt_tokens == 14


def test_the_youngest_keeps_its_blocks_while_it_waits_for_one() -> None:
    scheduler = make(blocks=5, prefix_caching=False)
    old, young = make_request("o", [1] * 6, max_tokens=3), make_request("y", [1] * 8, max_tokens=3)
    scheduler.submit(old)
    scheduler.submit(young)
    assert step(scheduler)[0] == [("o", 0, 6, True), ("y", 0, 8, True)]
    assert step(scheduler)[0] == [("o", 6, 1, True)]  # y needs a third block: there is none, but o will end
    assert step(scheduler)[1][0].finish is FinishReason.LENGTH
    assert step(scheduler)[0] == [("y", 8, 1, True)]
    assert young.num_preemptions == 0


def test_nobody_is_admitted_without_blocks_for_the_whole_prompt() -> None:
    scheduler = make(blocks=9, prefix_caching=False)
    scheduler.submit(make_request("a", [1] * 18, max_tokens=3))
    scheduler.submit(make_request("b", [1] * 14, max_tokens=3))
    assert step(scheduler)[0] == [("a", 0, 16, False)]  # 8 blocks: 5 for a, so 3 are left, and b needs 4
    scheduler.abort("a")
    assert step(scheduler)[0] == [("b", 0, 14, True)]


def test_stop_ids_and_min_tokens() -> None:
    scheduler = make()
    scheduler.submit(make_request("eos", [1], max_tokens=5, eos=[9]))
    scheduler.submit(make_request("stop", [1], max_tokens=5, stop_token_ids=[9]))
    scheduler.submit(make_request("later", [1], max_tokens=5, stop_token_ids=[9], min_tokens=2))
    first, second = step(scheduler)[1], step(scheduler)[1]
    assert [(e.request_id, e.finish, e.stop_reason) for e in first] == [
        ("eos", FinishReason.STOP, None),
        ("stop", FinishReason.STOP, 9),
        ("later", None, None),
    ]
    assert [(e.request_id, e.token, e.finish, e.stop_reason) for e in second] == [("later", 9, FinishReason.STOP, 9)]
    assert not scheduler.has_work


@pytest.mark.parametrize(
    ("token", "is_finite", "why"),
    [
        (5, False, "the model's output at position 4 is not finite; the request was ended, others go on"),
        (-1, False, "the model's output at position 4 is not finite; the request was ended, others go on"),
        (-1, True, "the request's constraints leave no token at position 5; it was ended, others go on"),
    ],
)
def test_a_row_that_cannot_go_on_ends_its_own_request(token: int, is_finite: bool, why: str) -> None:
    scheduler = make()
    for name in ("bad", "good"):
        scheduler.submit(make_request(name, [1] * 5, max_tokens=5))
    plan = scheduler.plan()
    assert plan is not None
    bad, good = run(scheduler, plan, [token, 5], finite=[is_finite, True])
    assert (bad.request_id, bad.token, bad.finish) == ("bad", None, FinishReason.ERROR)
    assert bad.error == why
    assert (good.request_id, good.token, good.finish) == ("good", 5, None)
    scheduler.check()
    assert scheduler.num_running == 1


def test_a_chunk_that_is_not_finite_is_never_cached() -> None:
    scheduler = make()
    scheduler.submit(make_request("bad", [1] * 20, max_tokens=1))
    plan = scheduler.plan()
    assert rows(plan) == [("bad", 0, 16, False)]
    assert plan is not None
    assert [event.finish for event in run(scheduler, plan, [0], finite=[False])] == [FinishReason.ERROR]
    assert scheduler.ledger().cached == 0


def test_logprobs_go_to_their_events() -> None:
    scheduler = make()
    for name, length in (("long", 20), ("a", 3)):
        scheduler.submit(make_request(name, [1] * length, max_tokens=5))
    plan = scheduler.plan()
    assert rows(plan) == [("long", 0, 12, False), ("a", 0, 3, True)]
    assert plan is not None
    logprobs = {5: Logprob(logprob=-0.5, rank=1)}
    assert run(scheduler, plan, [0, 5], finite=[True, True], logprobs=[None, logprobs]) == [
        TokenEvent(request_id="a", token=5, logprobs=logprobs)
    ]


def test_who_leaves_between_plan_and_commit_is_skipped() -> None:
    scheduler = make()
    for name in "ab":
        scheduler.submit(make_request(name, [1] * 5, max_tokens=5))
    plan = scheduler.plan()
    assert plan is not None
    assert scheduler.abort("a")
    assert not scheduler.abort("a")
    again = make_request("a", [2], max_tokens=1)
    scheduler.submit(again)  # the id is free at once
    assert [event.request_id for event in run(scheduler, plan, [5, 5])] == ["b"]
    assert again.num_computed == 0
    scheduler.check()


def test_finish_for_a_stop_string() -> None:
    scheduler = make()
    request = make_request("a", [1] * 5, max_tokens=5)
    scheduler.submit(request)
    step(scheduler)
    event = scheduler.finish("a", FinishReason.STOP, "END")
    assert event == TokenEvent(request_id="a", token=None, finish=FinishReason.STOP, stop_reason="END")
    assert (request.finish, request.block_ids) == (FinishReason.STOP, [])
    assert scheduler.finish("a", FinishReason.STOP) is None


def test_only_the_latest_plan_is_launched_and_once() -> None:
    scheduler = make()
    scheduler.submit(make_request("a", [1] * 5, max_tokens=5))
    old, new = scheduler.plan(), scheduler.plan()
    assert old is not None
    assert new is not None
    assert rows(old) == rows(new)
    with pytest.raises(AssertionError, match="latest plan"):
        scheduler.launch(old)
    with pytest.raises(AssertionError, match="in the order of launch"):
        scheduler.commit(new, [1])
    scheduler.launch(new)
    with pytest.raises(AssertionError, match="latest plan"):
        scheduler.launch(new)
    with pytest.raises(AssertionError, match="2 tokens for 1 rows"):
        scheduler.commit(new, [1, 2])
    scheduler.commit(new, [1])
    with pytest.raises(AssertionError, match="committed once"):
        scheduler.commit(new, [1])


@pytest.mark.parametrize(
    ("length", "max_tokens", "kind", "told"),
    [
        (40, 1, ContextLengthError, "prompt length is 40: .*max_model_len=40.*39 tokens or fewer"),
        (30, 11, ContextLengthError, "max_tokens is 11: .*30 tokens .* from 1 to 10"),
        (20, 10, CapacityError, "is 30: .*need 8 KV blocks of 4 tokens, and the pool has 7.* 29 tokens"),
    ],
)
def test_what_can_never_be_served_is_refused(length: int, max_tokens: int, kind: type[RequestError], told: str) -> None:
    scheduler = make(blocks=8)
    with pytest.raises(kind, match=told):
        scheduler.submit(make_request("a", [1] * length, max_tokens=max_tokens))
    assert not scheduler.has_work
    scheduler.submit(make_request("a", [1] * 20, max_tokens=9))  # 28 tokens are computed: exactly 7 blocks
    while scheduler.has_work:
        step(scheduler)


def test_an_id_in_flight_is_refused() -> None:
    scheduler = make()
    scheduler.submit(make_request("a", [1]))
    with pytest.raises(RequestError, match="request id is 'a': a request with this id is in flight"):
        scheduler.submit(make_request("a", [2]))
    assert scheduler.num_waiting == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_rows": 5}, "max_rows is 5: the buckets end at 4"),
        ({"max_step_tokens": 17}, "max_step_tokens is 17: the buckets end at 16"),
        ({"max_step_tokens": 3, "chunk_align": 1}, "max_step_tokens is 3: .*at least 4"),
        ({"chunk_align": 32}, "max_step_tokens is 16: .*at least 32"),
        ({"long_prompt_share": 0.0}, "long_prompt_share is 0.0"),
        ({"max_model_len": 1}, "max_model_len is 1"),
    ],
)
def test_limits_that_cannot_be(options: dict[str, int], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make(**options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_blocks": 1}, "num_blocks is 1: it must be at least 2"),
        ({"num_blocks": 3, "windows": (None, 5, 7)}, "num_blocks is 3: it must be at least 4"),
        ({"block_size": 0}, "block_size is 0"),
        ({"windows": (None, 0)}, "window is 0"),
    ],
)
def test_pools_that_cannot_be(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        KVPoolSpec(**{"block_size": 4, "num_blocks": 9, **options})


def test_a_hit_counts_only_where_all_groups_hit() -> None:
    scheduler = make(windows=(None, None))
    scheduler.submit(make_request("a", range(12), max_tokens=1))
    step(scheduler)
    pool, index = scheduler._cache.pool, scheduler._cache.indexes[1]
    lost = index._entries.keys() & set(pool.cached)
    for block in lost:
        del pool._cached[block]
        pool._free.append(block)
        pool._give_up(block)
    assert len(index) == 0
    request = make_request("b", range(12), max_tokens=1)
    scheduler.submit(request)
    assert step(scheduler)[0] == [("b", 0, 12, True)]
    assert request.num_cached == 0


def test_the_first_in_the_queue_tells_its_wait() -> None:
    scheduler = make()
    assert scheduler.longest_wait_s == 0.0
    request = make_request("a", [1])
    request.arrival_s = 4.5
    scheduler.submit(request)
    assert scheduler.longest_wait_s == 2.5
