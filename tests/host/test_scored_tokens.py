"""Which tokens of prompts a step scores, and where: number by number."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from host_model import ShadowModel, make_request, scores_alone

from jaxpaged.buckets import BucketTable
from jaxpaged.errors import ParameterError
from jaxpaged.plan import StepPlan
from jaxpaged.request import Request, RequestState, SamplingParams
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig
from jaxpaged.scored_tokens import ScoredTokens

BLOCK = 4


def make(*, blocks: int = 40, tokens: int = 8, align: int = 4) -> Scheduler:
    config = SchedulerConfig(max_rows=4, max_step_tokens=tokens, max_model_len=64, chunk_align=align)
    buckets = BucketTable.build(max_rows=4, max_step_tokens=tokens, min_rows=2, min_step_tokens=8)
    return Scheduler(config, KVPoolSpec(block_size=BLOCK, num_blocks=blocks), buckets)


def model_of(scheduler: Scheduler, blocks: int = 40) -> ShadowModel:
    return ShadowModel(scheduler, max_model_len=64)


def told(scored: ScoredTokens | None) -> list[list[int]]:
    assert scored is not None
    return [list(scored.counts), scored.targets.tolist(), scored.places.tolist()]


def planned(scheduler: Scheduler) -> StepPlan:
    plan = scheduler.plan()
    assert plan is not None
    return plan


def test_chunks_of_a_prompt_beside_a_row_that_asks_for_nothing() -> None:
    scheduler = make()
    scheduler.submit(make_request("plain", [6], max_tokens=9))
    scheduler.submit(make_request("a", [1, 2, 3, 4, 5, 6, 0, 1, 2], max_tokens=9, prompt_logprobs=0))
    plan = planned(scheduler)
    scored = ScoredTokens.of(plan)
    assert [(row.request.id, row.start, row.length) for row in plan.rows] == [("plain", 0, 1), ("a", 0, 4)]
    # token 0 of "a" has place 1 and predicts token 1
    assert told(scored) == [[0, 4], [2, 3, 4, 5], [1, 2, 3, 4]]
    assert told(ScoredTokens.of(plan)) == told(scored)  # until it is launched
    scheduler.launch(plan)
    scheduler.commit(plan, [3, 0], prompt_logprobs=[[], [{token: None} for token in (2, 3, 4, 5)]])  # pyright: ignore[reportArgumentType]
    plan = planned(scheduler)
    assert [(row.request.id, row.start, row.length) for row in plan.rows] == [("plain", 1, 1), ("a", 4, 5)]
    assert told(ScoredTokens.of(plan)) == [[0, 4], [6, 0, 1, 2], [1, 2, 3, 4]]  # nothing follows the last one
    scheduler.launch(plan)
    events = scheduler.commit(plan, [3, 5], prompt_logprobs=[[], [{token: None} for token in (6, 0, 1, 2)]])  # pyright: ignore[reportArgumentType]
    assert [
        event.prompt_logprobs and [place and list(place) for place in event.prompt_logprobs] for event in events
    ] == [
        None,
        [None, [2], [3], [4], [5], [6], [0], [1], [2]],
    ]
    assert ScoredTokens.of(planned(scheduler)) is None


def test_a_prompt_of_one_token_has_nothing_to_score() -> None:
    scheduler = make()
    scheduler.submit(make_request("a", [3], max_tokens=2, prompt_logprobs=5))
    plan = planned(scheduler)
    assert ScoredTokens.of(plan) is None
    scheduler.launch(plan)
    assert [event.prompt_logprobs for event in scheduler.commit(plan, [1])] == [(None,)]
    plan = planned(scheduler)
    scheduler.launch(plan)
    assert [event.prompt_logprobs for event in scheduler.commit(plan, [1])] == [None]


def test_who_ended_since_the_plan_is_left_out() -> None:
    scheduler = make()
    for name in "ab":
        scheduler.submit(make_request(name, [1, 2, 3], max_tokens=2, prompt_logprobs=0))
    plan = planned(scheduler)
    assert told(ScoredTokens.of(plan)) == [[2, 2], [2, 3, 2, 3], [0, 1, 3, 4]]
    assert scheduler.abort("a")
    assert told(ScoredTokens.of(plan)) == [[0, 2], [2, 3], [3, 4]]


def test_slices_are_filled_up() -> None:
    scored = ScoredTokens(
        counts=(3, 0, 2), targets=np.array([5, 6, 7, 8, 9], np.int32), places=np.array([0, 1, 2, 8, 9], np.int32)
    )
    slices = [(places.tolist(), targets.tolist()) for places, targets in scored.slices(3)]
    assert slices == [([0, 1, 2], [5, 6, 7]), ([8, 9, 0], [8, 9, 0])]
    assert {array.dtype for pair in scored.slices(4) for array in pair} == {np.dtype(np.int32)}


def finish(scheduler: Scheduler, model: ShadowModel) -> dict[str, object]:
    """Run to the end, one step ahead; what each request was told of its prompt."""
    found: dict[str, object] = {}
    flying: list[tuple[StepPlan, list[int], object]] = []
    while scheduler.has_work:
        plan = scheduler.plan()
        if plan is not None:
            tokens = model.execute(plan)
            flying.append((plan, tokens, model.scores))
            scheduler.launch(plan)
        if len(flying) > 1 or plan is None:
            done, tokens, scores = flying.pop(0)
            for event in scheduler.commit(done, tokens, prompt_logprobs=scores):  # pyright: ignore[reportArgumentType]
                if event.prompt_logprobs is not None:
                    assert event.request_id not in found
                    found[event.request_id] = event.prompt_logprobs
        scheduler.check()
    return found


def test_a_preempted_prompt_goes_on_where_its_scores_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is scored twice, and what the prefix cache kept of it is computed once."""
    scheduler = make(blocks=10)
    model = model_of(scheduler, 10)
    young = make_request("young", [(i * 3) % 7 for i in range(28)], max_tokens=2, prompt_logprobs=1)
    launch, seen = scheduler.launch, []

    def spy(plan: StepPlan) -> None:
        for i, (request, start, length, *_) in enumerate(plan.rows):
            if request is young:
                scored = ScoredTokens.of(plan)
                seen.append((start, length, scored.counts[i] if scored else 0))
        launch(plan)

    monkeypatch.setattr(scheduler, "launch", spy)
    scheduler.submit(make_request("old", [1, 2, 3, 4, 5], max_tokens=20))
    scheduler.submit(young)
    assert finish(scheduler, model) == {"young": scores_alone(young)}
    assert scheduler.num_preemptions == 1
    before = [(start, 4, 4) for start in range(0, 24, 4)]
    assert seen == [*before, (12, 8, 0), (20, 8, 3), (28, 1, 0)]


@pytest.mark.parametrize("asked", [None, 2])
def test_only_who_asks_passes_the_prefix_cache_by(asked: int | None) -> None:
    scheduler = make()
    model = model_of(scheduler)
    prompt = [(i * 3) % 7 for i in range(14)]
    finish_one(scheduler, model, make_request("first", prompt, max_tokens=1, prompt_logprobs=1))  # it publishes blocks
    second = make_request("second", prompt, max_tokens=1, prompt_logprobs=asked)
    finish_one(scheduler, model, second)
    assert second.num_cached == (12 if asked is None else 0)


def finish_one(scheduler: Scheduler, model: ShadowModel, request: Request) -> None:
    scheduler.submit(request)
    found = finish(scheduler, model)
    assert found.get(request.id) == scores_alone(request)
    assert request.state is RequestState.FINISHED


@pytest.mark.parametrize("value", [-1, 21, 1.5, True, "3"])
def test_what_cannot_be_asked_for(value: object) -> None:
    with pytest.raises(ParameterError, match=r"prompt_logprobs is .*from 0 to 20"):
        SamplingParams(prompt_logprobs=value)  # pyright: ignore[reportArgumentType]
    assert "prompt_logprobs" in {field.name for field in fields(SamplingParams)}
