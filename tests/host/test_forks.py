"""Requests of one prompt: what they share, who gets a tail of his own, what becomes of them without their leader."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict

import pytest
from host_model import ShadowModel, check_blocks_lie_apart, count_slots, make_request, run_alone, scores_alone

from jaxpaged.blocks import NULL_BLOCK
from jaxpaged.buckets import BucketTable
from jaxpaged.errors import RequestError
from jaxpaged.kv_pool_spec import KVPoolSpec
from jaxpaged.plan import StepPlan
from jaxpaged.request import FinishReason, Request, RequestState, TokenEvent
from jaxpaged.scheduler import Scheduler, SchedulerConfig

SIZE = 4
Rows = list[tuple[str, int, int, bool]]


class Stand:
    """A scheduler over a shadow model, committed `ahead` steps after the launch."""

    def __init__(
        self,
        *,
        windows: tuple[int | None, ...] = (None,),
        blocks: int = 40,
        tokens: int = 16,
        rows: int = 4,
        ahead: int = 0,
        prefix: bool = True,
    ) -> None:
        config = SchedulerConfig(
            max_rows=rows, max_step_tokens=tokens, max_model_len=60, chunk_align=4, prefix_caching=prefix
        )
        buckets = BucketTable.build(max_rows=rows, max_step_tokens=tokens, min_rows=min(2, rows), min_step_tokens=8)
        self.scheduler = Scheduler(config, KVPoolSpec(block_size=SIZE, num_blocks=blocks, windows=windows), buckets)
        self.pool = self.scheduler._cache.pool
        self.model = ShadowModel(self.scheduler, max_model_len=60)
        self.ahead = ahead
        self.flying: deque[tuple[StepPlan, list[int], object]] = deque()
        self.requests: dict[str, Request] = {}
        self.events: dict[str, list[TokenEvent]] = {}

    def submit(
        self, count: int, prompt: list[int], *, name: str = "a", max_tokens: int = 4, **options: int
    ) -> list[Request]:
        made = [
            make_request(f"{name}{i}", prompt, max_tokens=max_tokens, seed=i, **options)  # pyright: ignore[reportArgumentType]
            for i in range(count)
        ]
        self.scheduler.submit(made[0], made[1:])
        self.requests.update({request.id: request for request in made})
        self.events.update({request.id: [] for request in made})
        return made

    def launch(self) -> StepPlan | None:
        plan = self.scheduler.plan()
        if plan is not None:
            tokens = self.model.execute(plan)
            self.scheduler.launch(plan)
            self.flying.append((plan, tokens, self.model.scores))
            self.sound()
        return plan

    def land(self, **results: list[bool]) -> None:
        plan, tokens, scores = self.flying.popleft()
        for event in self.scheduler.commit(plan, tokens, prompt_logprobs=scores, **results):  # pyright: ignore[reportArgumentType]
            self.events[event.request_id].append(event)
        self.sound()

    def step(self) -> Rows:
        plan = self.launch()
        while len(self.flying) > (self.ahead if plan else 0):
            self.land()
        return rows(plan)

    def finish(self) -> None:
        """Run to the end; every answer must be what its request would be told alone."""
        while self.scheduler.has_work:
            self.step()
        for name, request in self.requests.items():
            events = self.events[name]
            if request.finish in (FinishReason.LENGTH, FinishReason.STOP):
                assert [event.token for event in events] == run_alone(request)[0]
                assert events[0].prompt_logprobs == scores_alone(request)

    def sound(self) -> None:
        self.scheduler.check()
        check_blocks_lie_apart(self.scheduler)
        assert count_slots(self.scheduler) == asdict(self.scheduler.ledger())
        self.model.poison()


def rows(plan: StepPlan | None) -> Rows:
    return [] if plan is None else [(row.request.id, row.start, row.length, row.samples) for row in plan.rows]


def test_followers_draw_in_the_leaders_step_and_share_its_blocks() -> None:
    stand = Stand()
    made = stand.submit(4, [1, 2, 3, 4, 5, 6])
    assert (stand.scheduler.num_waiting, stand.scheduler.num_running) == (1, 0)
    assert [request.state for request in made[1:]] == [RequestState.FOLLOWING] * 3
    plan = stand.launch()
    assert rows(plan) == [("a0", 0, 6, True), ("a1", 6, 0, True), ("a2", 6, 0, True), ("a3", 6, 0, True)]
    assert plan is not None
    assert (plan.num_tokens, plan.bucket.tokens) == (6, 8)
    assert [[list(table) for table in request.block_ids] for request in made] == [[[1, 2]]] * 4
    ledger = stand.scheduler.ledger()
    assert (ledger.shared, ledger.tail, ledger.live, ledger.tokens) == (6, 2, 0, 24)
    stand.land()
    assert [len(stand.events[request.id]) for request in made] == [1, 1, 1, 1]

    plan = stand.launch()
    assert rows(plan) == [(request.id, 6, 1, True) for request in made]
    assert plan is not None
    assert plan.copies == ((2, 3), (2, 4), (2, 5))  # the last holder has it alone
    assert [list(request.block_ids[0]) for request in made] == [[1, 3], [1, 4], [1, 5], [1, 2]]
    ledger = stand.scheduler.ledger()
    assert (ledger.shared, ledger.tail, ledger.live) == (4, 4, 12)
    stand.finish()
    assert stand.pool.num_referenced == 0
    assert stand.scheduler.num_prompt_tokens == 6  # computed once


def test_a_full_tail_needs_no_copy() -> None:
    stand = Stand()
    made = stand.submit(3, [1] * 8)
    stand.step()
    assert stand.pool.num_referenced == 2
    plan = stand.launch()
    assert plan is not None
    assert plan.copies == ()
    assert stand.pool.num_referenced == 2 + 3
    assert {request.block_ids[0][1] for request in made} == {2}
    stand.finish()


def test_followers_whose_leader_has_one_token_left_fit_a_decode_step() -> None:
    stand = Stand()
    stand.submit(1, [1] * 9, name="before", max_tokens=1)
    stand.finish()
    stand.submit(3, [1] * 9)
    plan = stand.launch()
    assert rows(plan) == [("a0", 8, 1, True), ("a1", 9, 0, True), ("a2", 9, 0, True)]
    assert plan is not None
    assert plan.bucket.is_decode
    stand.land()
    stand.finish()


@pytest.mark.parametrize("ahead", [0, 1, 2])
@pytest.mark.parametrize("windows", [(None,), (3,), (None, 6), (1, None)], ids=str)
def test_answers_are_what_each_request_is_told_alone(windows: tuple[int | None, ...], ahead: int) -> None:
    stand = Stand(windows=windows, ahead=ahead, tokens=8, blocks=60)
    for count, length in ((3, 21), (2, 5), (4, 16), (1, 3)):
        stand.submit(count, [(3 * i) % 7 for i in range(length)], name=f"{length}-", max_tokens=7, prompt_logprobs=1)
    stand.finish()
    assert all(request.finish is FinishReason.LENGTH for request in stand.requests.values())


def test_places_behind_a_window_are_shared_as_what_they_are() -> None:
    stand = Stand(windows=(3, None), tokens=8)
    made = stand.submit(2, [1] * 18)
    while not made[1].block_ids:
        stand.step()
    assert list(made[1].block_ids[0][:3]) == [NULL_BLOCK] * 3
    assert made[1].block_ids[0][4] == made[0].block_ids[0][4] != NULL_BLOCK
    assert made[1].table_starts == [3, 0]
    stand.finish()


def test_those_without_a_row_are_requests_of_their_own() -> None:
    stand = Stand(rows=2)
    made = stand.submit(5, [1] * 9)
    assert [request.state for request in made].count(RequestState.FOLLOWING) == 1  # more than a step has rows
    assert stand.step() == [("a0", 0, 8, False)]
    assert stand.step() == [("a0", 8, 1, True), ("a1", 9, 0, True)]
    assert [request.num_cached for request in made] == [0] * 5
    stand.finish()
    assert [request.num_cached for request in made] == [0, 0, 8, 8, 8]


def test_a_follower_gets_the_next_row_that_is_free_or_the_front_of_the_queue() -> None:
    stand = Stand(rows=3, tokens=8)
    stand.submit(1, [2] * 3, name="x", max_tokens=2)
    stand.submit(1, [3] * 3, name="y", max_tokens=9)
    stand.step()
    made = stand.submit(4, [1] * 13, max_tokens=6)  # two of them follow
    stand.submit(1, [4], name="z")
    stand.step()
    assert [request.seat >= 0 for request in made] == [True, False, False, False]
    stand.step()  # x has ended
    assert [request.seat >= 0 for request in made] == [True, True, False, False]
    while len(made[0].tokens) == 13:
        stand.step()
    assert [request.state for request in made[:3]] == [RequestState.RUNNING] * 2 + [RequestState.WAITING]
    assert [request.id for request in stand.scheduler.roster.waiting] == ["a2", "a3", "z0"]
    stand.finish()


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_leader_that_leaves_hands_over_what_it_has_computed(ahead: int) -> None:
    stand = Stand(tokens=8, ahead=ahead)
    made = stand.submit(3, [1] * 20, prompt_logprobs=1)
    assert stand.step() == [("a0", 0, 8, False)]
    stand.step()
    seats = [request.seat for request in made]
    assert stand.scheduler.abort("a0")
    assert (made[0].block_ids, made[0].state) == ([], RequestState.FINISHED)
    assert [request.state for request in made[1:]] == [RequestState.RUNNING, RequestState.FOLLOWING]
    assert (made[1].num_computed, made[1].seat, made[2].seat) == (16, seats[0], seats[2])
    stand.sound()
    assert stand.step() == [("a1", 16, 4, True), ("a2", 20, 0, True)]
    stand.finish()
    assert stand.events["a0"] == []


def test_a_leader_that_leaves_the_queue_leaves_its_place() -> None:
    stand = Stand(rows=3, blocks=4)
    stand.submit(1, [1] * 9, name="x", max_tokens=3)
    stand.step()
    made = stand.submit(3, [2] * 9, max_tokens=2)
    stand.submit(1, [3], name="z")
    stand.step()
    assert stand.scheduler.abort("a0")
    assert stand.scheduler.abort("a2")
    stand.sound()
    assert [request.id for request in stand.scheduler.roster.waiting] == ["a1", "z0"]
    assert made[1].followers == []
    stand.finish()


def test_a_leader_that_leaves_between_plan_and_launch() -> None:
    stand = Stand(tokens=8)
    made = stand.submit(3, [1] * 6)
    plan = stand.scheduler.plan()
    assert plan is not None
    tokens = stand.model.execute(plan)
    assert stand.scheduler.abort("a0")
    stand.scheduler.launch(plan)  # for nobody
    stand.sound()
    assert [request.state for request in made[1:]] == [RequestState.RUNNING, RequestState.FOLLOWING]
    second = stand.launch()
    assert rows(second) == [("a1", 0, 6, True), ("a2", 6, 0, True)]
    assert stand.scheduler.commit(plan, tokens) == []
    stand.sound()
    stand.finish()


def test_a_prompt_that_is_not_finite_ends_all_that_wait_for_it() -> None:
    stand = Stand(tokens=8)
    made = stand.submit(3, [1] * 20)
    other = stand.submit(1, [2], name="x")
    stand.launch()
    stand.land(finite=[False])
    assert [request.finish for request in made] == [FinishReason.ERROR] * 3
    assert [len(stand.events[request.id]) for request in made] == [1] * 3
    stand.finish()
    assert other[0].finish is FinishReason.LENGTH


def test_a_draw_that_is_not_finite_ends_one() -> None:
    stand = Stand()
    made = stand.submit(3, [1] * 6)
    stand.launch()
    stand.land(finite=[False, True, True])
    stand.finish()
    assert [request.finish for request in made] == [FinishReason.ERROR, FinishReason.LENGTH, FinishReason.LENGTH]


@pytest.mark.parametrize("ahead", [0, 1])
def test_forks_are_preempted_like_others_and_come_back_as_others(ahead: int) -> None:
    stand = Stand(blocks=8, ahead=ahead)
    made = stand.submit(4, [1] * 10, max_tokens=12)
    stand.finish()
    assert stand.scheduler.num_preemptions > 0
    assert made[0].num_preemptions == 0
    assert all(request.finish is FinishReason.LENGTH for request in made)


def test_a_preempted_leader_comes_back_with_its_followers() -> None:
    stand = Stand(blocks=19, tokens=9, rows=6)
    for i in range(3):
        stand.submit(1, [2] * 4, name=f"{i}-", max_tokens=30)
    made = stand.submit(3, [1] * 40, max_tokens=3)
    for _ in range(4):
        stand.step()
    assert all(request.seat >= 0 for request in made)
    while not stand.scheduler.num_preemptions and made[0].num_output == 0:
        stand.step()
    assert [request.num_preemptions for request in made] == [1, 0, 0]
    assert [request.seat for request in made] == [-1] * 3
    assert (made[0].state, made[0].followers) == (RequestState.WAITING, made[1:])
    stand.finish()
    assert all(request.finish is FinishReason.LENGTH for request in stand.requests.values())


def test_a_plan_that_is_made_anew_still_copies() -> None:
    stand = Stand()
    made = stand.submit(3, [1] * 6)
    stand.step()
    void = stand.scheduler.plan()
    assert void is not None
    assert void.copies == ((2, 3), (2, 4))
    stand.sound()
    stand.scheduler.abort("a0")  # of the copies one is for nobody now
    plan = stand.launch()
    assert plan is not None
    assert plan.copies == ((2, 3), (2, 4))
    stand.land()
    assert made[1].block_ids[0][1] == 4
    plan = stand.launch()
    assert plan is not None
    assert plan.copies == ()
    stand.finish()


def test_answers_of_one_token() -> None:
    stand = Stand(ahead=1)
    made = stand.submit(4, [1] * 6, max_tokens=1)
    stand.finish()
    assert [len(stand.events[request.id]) for request in made] == [1] * 4


def test_without_a_prefix_cache_forks_share_all_the_same() -> None:
    stand = Stand(prefix=False)
    stand.submit(4, [1] * 14)
    stand.step()
    assert stand.pool.num_referenced == 4
    stand.step()
    assert stand.pool.num_referenced == 3 + 4
    stand.finish()


def test_a_name_comes_once() -> None:
    stand = Stand()
    with pytest.raises(RequestError, match=r"a.* is in flight"):
        stand.scheduler.submit(make_request("a", [1]), [make_request("a", [1])])
    assert not stand.scheduler.has_work
