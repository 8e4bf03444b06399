"""Guesses verified, step by literal step: which rows they get, which count, and what is left of the others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from drafters import OracleDrafter, eager_speculator
from host_model import make_request

from jaxpaged.batch import Packer, StepLayout, unpack
from jaxpaged.buckets import Bucket, BucketTable
from jaxpaged.mask_filler import MaskFiller
from jaxpaged.plan import StepPlan
from jaxpaged.request import PENDING, FinishReason, Logprob, Request, SamplingParams, TokenEvent
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig

BUCKETS = BucketTable.build(max_rows=8, max_step_tokens=16, min_rows=2, min_step_tokens=8)


def make(*answers: tuple[int, ...], blocks: int = 20, most: int = 3, **options: Any) -> Scheduler:
    """A scheduler whose drafter expects these answers of requests "a", "b", ..."""
    expected = dict(zip("abc", answers, strict=False))
    config = SchedulerConfig(
        max_rows=options.pop("max_rows", 8), max_step_tokens=16, max_model_len=40, chunk_align=4, **options
    )

    def drafter(request: Request) -> OracleDrafter:
        rng = random.Random(0)
        return OracleDrafter(request, expected[request.id], length=most + 1, share=1.0, vocab=100, rng=rng)

    pool = KVPoolSpec(block_size=4, num_blocks=blocks)
    return Scheduler(config, pool, BUCKETS, speculator=eager_speculator(drafter, most=most))


def launch(scheduler: Scheduler) -> StepPlan:
    assert not scheduler.needs_commit()
    plan = scheduler.plan()
    assert plan is not None
    scheduler.launch(plan)
    scheduler.check()
    return plan


def rows(plan: StepPlan) -> list[tuple[str, int, int, tuple[int, ...]]]:
    return [(row.request.id, row.start, row.length, row.draft) for row in plan.rows]


def told(events: list[TokenEvent]) -> list[tuple[str, int | None]]:
    return [(event.request_id, event.token) for event in events]


def test_guesses_get_a_row_each_and_count_as_far_as_they_are_right() -> None:
    scheduler = make((7, 8, 9, 10, 11))
    request = make_request("a", [1, 2, 3], max_tokens=9)
    scheduler.submit(request)
    scheduler.commit(launch(scheduler), [7])
    plan = launch(scheduler)
    assert rows(plan) == [("a", 3, 1, ()), ("a", 4, 1, (8,)), ("a", 5, 1, (8, 9)), ("a", 6, 1, (8, 9, 10))]
    assert plan.bucket.rows == 4
    assert (request.tokens, request.num_computed) == ([1, 2, 3, 7, PENDING], 4)
    assert scheduler.needs_commit()
    events = scheduler.commit(plan, [8, 9, 5, 6])  # the third guess is wrong
    assert told(events) == [("a", 8), ("a", 9), ("a", 5)]
    assert (request.tokens, request.num_computed) == ([1, 2, 3, 7, 8, 9, 5], 6)
    scheduler.check()
    counts = scheduler.speculator and scheduler.speculator.counts
    assert counts is not None
    assert (counts.drafts, counts.draft_tokens, counts.accepted_tokens) == (1, 3, 2)
    assert counts.accepted_at == [1, 1, 0]
    assert rows(launch(scheduler))[0] == ("a", 6, 1, ())  # written again: what the wrong guess left is gone


def test_a_plan_while_guesses_are_in_flight_is_a_mistake() -> None:
    scheduler = make((7, 8, 9))
    scheduler.submit(make_request("a", [1, 2, 3], max_tokens=9))
    scheduler.commit(launch(scheduler), [7])
    launch(scheduler)
    with pytest.raises(AssertionError, match="guesses are in flight"):
        scheduler.plan()


def test_a_step_is_committed_first_where_guesses_would_follow_and_not_where_none_would() -> None:
    scheduler = make((7, 8, 9, 10), ())
    scheduler.submit(make_request("a", [1, 2, 3], max_tokens=9))
    plan = launch(scheduler)
    assert scheduler.needs_commit()  # what follows the token that is drawn now is known
    scheduler.abort("a")
    assert not scheduler.needs_commit()
    scheduler.commit(plan, [7])
    alone = Scheduler(scheduler.config, KVPoolSpec(block_size=4, num_blocks=20), BUCKETS)
    alone.submit(make_request("a", [1, 2, 3], max_tokens=9))
    launch(alone)
    assert not alone.needs_commit()


def test_a_stop_within_guesses_ends_the_request_and_drops_what_follows() -> None:
    scheduler = make((7, 8, 9, 10, 11))
    request = make_request("a", [1, 2, 3], max_tokens=9, eos=[9])
    scheduler.submit(request)
    scheduler.commit(launch(scheduler), [7])
    events = scheduler.commit(launch(scheduler), [8, 9, 10, 11])
    assert told(events) == [("a", 8), ("a", 9)]
    assert events[-1].finish is FinishReason.STOP
    assert request.tokens == [1, 2, 3, 7, 8, 9]
    assert not scheduler.has_work
    scheduler.check()
    assert scheduler.ledger().held == 0


def test_max_tokens_bounds_guesses() -> None:
    scheduler = make((7, 8, 9, 10, 11))
    scheduler.submit(make_request("a", [1, 2, 3], max_tokens=3))
    scheduler.commit(launch(scheduler), [7])
    plan = launch(scheduler)
    assert [row.draft for row in plan.rows] == [(), (8,)]
    events = scheduler.commit(plan, [8, 9])
    assert [event.finish for event in events] == [None, FinishReason.LENGTH]


def test_two_requests_and_their_logprobs_keep_apart() -> None:
    scheduler = make((7, 8, 9), (17, 18, 19), most=1)
    for name in "ab":
        scheduler.submit(make_request(name, [1, 2, 3], max_tokens=9))
    scheduler.commit(launch(scheduler), [7, 17])
    plan = launch(scheduler)
    assert rows(plan) == [("a", 3, 1, ()), ("a", 4, 1, (8,)), ("b", 3, 1, ()), ("b", 4, 1, (18,))]
    logprobs = [{token: Logprob(logprob=-float(token))} for token in (8, 9, 5, 6)]
    events = scheduler.commit(plan, [8, 9, 5, 6], logprobs=logprobs)
    assert [(event.request_id, event.token, event.logprobs) for event in events] == [
        ("a", 8, logprobs[0]),
        ("a", 9, logprobs[1]),
        ("b", 5, logprobs[2]),
    ]


def test_a_row_that_is_not_finite_counts_only_where_its_guess_is_right() -> None:
    for drawn, ends in ((8, True), (4, False)):
        scheduler = make((7, 8, 9), most=1)
        request = make_request("a", [1, 2, 3], max_tokens=9)
        scheduler.submit(request)
        scheduler.commit(launch(scheduler), [7])
        events = scheduler.commit(launch(scheduler), [drawn, 9], finite=[True, False])
        assert events[0].token == drawn
        assert [event.finish for event in events[1:]] == ([FinishReason.ERROR] if ends else [])
        scheduler.check()


def test_a_request_that_leaves_while_its_guesses_are_computed_leaves_nothing() -> None:
    scheduler = make((7, 8, 9), (17, 18))
    for name in "ab":
        scheduler.submit(make_request(name, [1, 2, 3], max_tokens=9))
    scheduler.commit(launch(scheduler), [7, 17])
    plan = launch(scheduler)
    assert plan.num_drafted == 6
    scheduler.abort("a")
    drawn = {"b": iter([18, 5, 5, 5])}
    tokens = [next(drawn[row.request.id]) if row.request.id == "b" else 3 for row in plan.rows]
    assert told(scheduler.commit(plan, tokens)) == [("b", 18), ("b", 5)]
    scheduler.check()


def test_full_blocks_of_accepted_guesses_serve_others() -> None:
    scheduler = make((7, 8, 9, 10), ())
    scheduler.submit(make_request("a", [1, 2, 3], max_tokens=9))
    scheduler.commit(launch(scheduler), [7])
    scheduler.commit(launch(scheduler), [8, 9, 10, 11])
    scheduler.commit(launch(scheduler), [5, 6, 6, 6])  # 11 is computed then, so its block is full
    other = make_request("b", [1, 2, 3, 7, 8, 9, 10, 11, 5], max_tokens=2)
    scheduler.submit(other)
    launch(scheduler)
    assert other.num_cached == 8


def test_a_block_that_is_full_of_rejected_guesses_serves_nobody() -> None:
    scheduler = make((7, 8, 9, 10), ())
    request = make_request("a", [1, 2, 3], max_tokens=9)
    scheduler.submit(request)
    scheduler.commit(launch(scheduler), [7])
    scheduler.commit(launch(scheduler), [8, 9, 5, 6])
    plan = launch(scheduler)
    guess = plan.rows[1].draft[0]  # in the last place of the second block
    assert plan.rows[1].start == 7
    scheduler.commit(plan, [(guess + 1) % 100, 6, 6, 6])
    assert request.num_computed == 7
    other = make_request("b", [1, 2, 3, 7, 8, 9, 5, guess, 1], max_tokens=2)
    scheduler.submit(other)
    launch(scheduler)
    assert other.num_cached == 4


def test_guesses_take_no_block_that_somebody_needs_next() -> None:
    """Five blocks for two requests of one block each: one is kept for each of them."""
    scheduler = make((7, 8, 9, 10), (17, 18, 19, 20), blocks=6, most=3)
    for name in "ab":
        scheduler.submit(make_request(name, [1, 2, 3], max_tokens=9))
    scheduler.commit(launch(scheduler), [7, 17])
    plan = launch(scheduler)
    drafted = {name: [row.draft for row in plan.rows if row.request.id == name][1:] for name in "ab"}
    assert drafted == {"a": [(8,), (8, 9), (8, 9, 10)], "b": []}
    assert scheduler.num_preemptions == 0


def test_full_steps_have_no_guesses() -> None:
    scheduler = make((7, 8), (17, 18), max_rows=2)
    for name in "ab":
        scheduler.submit(make_request(name, [1, 2, 3], max_tokens=9))
    scheduler.commit(launch(scheduler), [7, 17])
    assert launch(scheduler).num_drafted == 0
    assert not scheduler.needs_commit()


def test_what_is_packed_of_a_drafted_row_is_as_if_its_guesses_were_there() -> None:
    outputs: list[list[int]] = []

    class Listening:
        follows = True

        def fill(self, output: Sequence[int], mask: np.ndarray) -> None:
            outputs.append(list(output))

    params = SamplingParams(max_tokens=9, repetition_penalty=1.5, logit_bias={2: 1.0}, logprobs=1, seed=3)
    request = Request(id="a", prompt=(1, 2, 3), params=params, seed=3, max_tokens=9, constraints=(Listening(),))
    scheduler = make((7, 8, 9, 10), most=3)
    scheduler.submit(request)
    scheduler.commit(launch(scheduler), [7])
    plan = scheduler.plan()
    assert plan is not None
    layout = StepLayout(bucket=plan.bucket, table_width=10, num_groups=1)
    packer = Packer(num_seats=16, table_width=10, groups=[0], max_model_len=40, vocab_size=100)
    inputs = packer.pack(plan, layout)
    fields = unpack(inputs.ints, layout, lambda bits: bits.view(np.float32))
    assert plan.bucket == Bucket(tokens=4, rows=4)
    assert fields.token_ids.tolist() == [7, 8, 9, 10]
    assert fields.kv_lens.tolist() == [4, 5, 6, 7]
    assert fields.seats.tolist() == [request.seat, 16, 16, 16]  # only the first one's token is remembered
    assert np.unique(fields.block_tables[0], axis=0).shape[0] == 1
    assert fields.seeds.tolist() == [3] * 4
    assert fields.num_logprobs.tolist() == [1] * 4
    assert inputs.history is not None
    assert [row[row >= 0].tolist() for row in inputs.history] == [
        [1, 2, 3, 7],
        [1, 2, 3, 7, 8],
        [1, 2, 3, 7, 8, 9],
        [1, 2, 3, 7, 8, 9, 10],
    ]
    scheduler.launch(plan)  # masks are made afterwards
    masks, ended = MaskFiller(vocab=100).of(plan)
    assert masks is not None
    assert not ended
    assert outputs == [[7], [7, 8], [7, 8, 9], [7, 8, 9, 10]]  # what constraints are asked about


def test_a_guess_that_leaves_no_next_token_is_computed_again_as_the_last_token() -> None:
    """Whether the answer is whole then or at a dead end is found where no guess is in play."""
    scheduler = make((7, 8, 9, 10))
    request = make_request("a", [1, 2, 3], max_tokens=9)
    scheduler.submit(request)
    scheduler.commit(launch(scheduler), [7])
    assert told(scheduler.commit(launch(scheduler), [8, -1, 10, 11])) == [("a", 8)]
    assert (request.tokens, request.num_computed) == ([1, 2, 3, 7, 8], 4)
    assert rows(launch(scheduler))[0] == ("a", 4, 1, ())
