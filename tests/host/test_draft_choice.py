"""How many guesses a draft model is asked for, of whom, and what it knows of the blocks that it shares."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from drafters import AnyPrice, LinearCosts
from host_model import make_request

from jaxpaged.block_listener import BlockListeners
from jaxpaged.buckets import BucketTable
from jaxpaged.plan import StepPlan
from jaxpaged.request import PENDING, Request
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig
from jaxpaged.speculation.config import SpeculationConfig
from jaxpaged.speculation.costs import DraftCosts
from jaxpaged.speculation.draft_model import Drawn
from jaxpaged.speculation.drafter import Guess
from jaxpaged.speculation.fills import DraftFills
from jaxpaged.speculation.speculator import Speculator

CONFIG = SpeculationConfig(method="draft_model", num_speculative_tokens=4, model="draft")
BUCKETS = BucketTable.build(max_rows=8, max_step_tokens=16, min_rows=2, min_step_tokens=8)


class StandIn:
    """A draft model that draws what `answer` says of a request and a place. pass_s: what a pass is said to take."""

    def __init__(self, answer: Callable[[Request, int], int], *, pass_s: float = 0.0, longest: int = 9000) -> None:
        self.answer, self.pass_s, self.longest = answer, pass_s, longest
        self.fills = DraftFills(100, block_size=4, group=0)
        self.share = 0.0
        self.asked: list[list[tuple[str, int]]] = []
        self.forgotten: list[str] = []
        self.likelihood = 0.85

    def propose(self, requests: Sequence[Request], counts: Sequence[int]) -> Drawn:
        self.asked.append([(request.id, count) for request, count in zip(requests, counts, strict=True)])
        found: list[Guess] = []
        for request, count in zip(requests, counts, strict=True):
            end = request.num_tokens
            tokens = tuple(self.answer(request, end + i) for i in range(count))
            found.append(Guess(tokens, 0, (self.likelihood,) * count))
        return Drawn(found, seconds=self.pass_s * max(counts), passes=max(counts), taken_in=len(found))

    def forget(self, request: Request) -> None:
        self.forgotten.append(request.id)

    def restart(self) -> None:
        self.fills.forget()


def rows(count: int) -> Any:
    """What a step of `count` requests computes: no padding."""
    return lambda drafted: count + drafted


def everywhere(request: Request, count: int) -> int:
    del request
    return count


def right(request: Request, place: int) -> int:
    del request
    return place % 50


def counting(name: str = "a", *, max_tokens: int = 200) -> Request:
    """A request whose tokens are those that `right` draws."""
    return make_request(name, list(range(6)), max_tokens=max_tokens)


def answered(request: Request, count: int, wrong: Callable[[int], bool] = lambda place: False) -> None:
    """The next tokens come: those that `right` draws, but for wrong ones."""
    for _ in range(count):
        place = request.num_tokens
        request.tokens.append(99 if wrong(place) else right(request, place))


def test_it_is_asked_for_as_many_guesses_as_are_likely_to_pay() -> None:
    cheap = StandIn(right)
    speculator = Speculator(CONFIG, costs=LinearCosts(1.0, 0.0, 0.1), draft=cheap)
    request = counting()
    assert speculator.choose([request], 10, rows(1), everywhere) == [(6, 7, 8, 9)]
    assert cheap.asked == [[("a", 4)]]
    dear = StandIn(right, pass_s=5.0)
    speculator = Speculator(CONFIG, costs=LinearCosts(1.0, 0.0, 0.1), draft=dear)
    asked = []
    for _ in range(6):
        asked.append(len(speculator.choose([request], 10, rows(1), everywhere)[0]))
        answered(request, 1)
    assert asked[0] > 0  # not known yet to be dear
    assert asked[-1] == 0
    assert len(dear.asked) == 2  # the first pass may have been compiled: the second one tells


def test_it_is_asked_for_fewer_where_they_do_not_come_true_and_tried_again_at_times() -> None:
    draft = StandIn(right)
    speculator = Speculator(CONFIG, costs=LinearCosts(1.0, 0.1, 0.2), draft=draft)
    request = counting(max_tokens=5000)

    def step(wrong: bool) -> int:
        count = len(speculator.choose([request], 10, rows(1), everywhere)[0])
        answered(request, 1 if wrong else 1 + count, lambda _: wrong)
        return count

    assert sum(step(False) for _ in range(10)) > 20
    for _ in range(60):
        step(True)
    before = len(draft.asked)
    for _ in range(640):
        step(True)
    assert 8 <= len(draft.asked) - before <= 10  # once in 65 steps, one guess each
    assert all(count == 1 for asked in draft.asked[before:] for _, count in asked)
    for _ in range(200):  # sooner and sooner, as they come true
        step(False)
    assert sum(step(False) for _ in range(10)) > 20


def test_waiting_for_a_step_goes_by_what_may_be_drawn() -> None:
    request = counting()
    for costs, worth in ((LinearCosts(1.0, 0.0, 0.1), True), (LinearCosts(1.0, 0.0, 9.0), False)):
        draft = StandIn(right)
        speculator = Speculator(CONFIG, costs=costs, draft=draft)
        request.tokens.append(PENDING)
        assert speculator.worth_waiting([request], 10, rows(1)) is worth
        assert not speculator.worth_waiting([request], 0, rows(1))
        request.tokens.pop()
        assert not draft.asked


def test_rows_are_shared_out_and_none_is_drawn_where_there_is_none() -> None:
    draft = StandIn(right)
    speculator = Speculator(CONFIG, costs=AnyPrice(), draft=draft)
    speculator._draft_costs = None  # passes take nothing
    requests = [counting("a"), counting("b"), counting("c")]
    chosen = speculator.choose(requests, 5, rows(3), everywhere)
    assert sum(map(len, chosen)) == 5
    assert speculator.choose(requests, 0, rows(3), everywhere) == [(), (), ()]
    assert len(draft.asked) == 1


def test_no_guess_goes_past_the_last_token_or_the_longest_context_or_has_no_block() -> None:
    draft = StandIn(right, longest=9)
    speculator = Speculator(CONFIG, costs=AnyPrice(), draft=draft)
    speculator._draft_costs = None  # passes take nothing
    short, whole, long, blocked = counting("a", max_tokens=3), counting("b", max_tokens=1), counting("c"), counting("d")
    answered(long, 4)

    def reach(request: Request, count: int) -> int:
        return count - 1 if request is blocked else count

    chosen = speculator.choose([short, whole, long, blocked], 20, rows(4), reach)
    assert chosen == [(6, 7), (), (), ()]
    assert draft.asked == [[("a", 2)]]
    for nobody in (whole, long):
        assert speculator.choose([nobody], 20, rows(1), reach) == [()]
        assert not speculator.worth_waiting([nobody], 20, rows(1))  # the next step need not wait for nothing
    assert speculator.worth_waiting([blocked], 20, rows(1))
    assert speculator.choose([blocked], 20, rows(1), reach) == [()]
    waits = [speculator.worth_waiting([blocked], 20, rows(1)) for _ in range(20)]
    assert waits == [False] * 16 + [True] * 4


def test_one_request_is_tried_before_it_is_known_what_passes_take() -> None:
    draft = StandIn(right, pass_s=0.001)
    speculator = Speculator(CONFIG, costs=AnyPrice(), draft=draft)
    requests = [counting("a"), counting("b"), counting("c")]
    answered(requests[0], 5)
    for _ in range(3):
        speculator.choose(requests, 20, rows(3), everywhere)
        for request in requests:
            answered(request, 1)
    assert [[name for name, _ in asked] for asked in draft.asked] == [["b"], ["b"], ["a", "b", "c"]]


def test_what_was_drawn_is_not_drawn_again_for_the_same_step() -> None:
    draft = StandIn(right)
    speculator = Speculator(CONFIG, costs=AnyPrice(), draft=draft)
    request = counting()
    first = speculator.choose([request], 10, rows(1), everywhere)
    assert speculator.choose([request], 10, rows(1), everywhere) == first
    assert len(draft.asked) == 1


def test_likelier_guesses_get_the_rows() -> None:
    draft = StandIn(right)
    speculator = Speculator(CONFIG, costs=LinearCosts(1.0, 0.3, 0.0), draft=draft)
    sure, unsure = counting("sure", max_tokens=2000), counting("unsure", max_tokens=2000)
    for _ in range(150):
        for request, likelihood in ((sure, 0.99), (unsure, 0.05)):
            draft.likelihood = likelihood
            speculator.choose([request], 10, rows(1), everywhere)
            answered(request, 1, lambda _, request=request: request is unsure)
    draft.likelihood = 0.99
    assert len(speculator.choose([sure], 10, rows(1), everywhere)[0]) == 4
    draft.likelihood = 0.05
    assert not speculator.choose([unsure], 10, rows(1), everywhere)[0]


class Forced:
    """A constraint that leaves the tokens of `right` alone, up to a place."""

    follows = True

    def __init__(self, until: int) -> None:
        self.until = until

    def fill(self, output: Sequence[int], mask: Any) -> None:
        raise AssertionError("no mask is asked for here")

    def forced(self, output: Sequence[int], most: int) -> list[int]:
        return [right(None, 6 + place) for place in range(len(output), min(self.until, len(output) + most))]  # pyright: ignore[reportArgumentType]


def test_what_is_forced_is_not_drawn() -> None:
    draft = StandIn(right)
    speculator = Speculator(CONFIG, costs=AnyPrice(), draft=draft)
    request = counting()
    request.constraints = (Forced(3),)  # pyright: ignore[reportAttributeAccessIssue]
    assert speculator.choose([request], 10, rows(1), everywhere) == [(6, 7, 8)]
    assert not draft.asked
    answered(request, 3)
    assert speculator.choose([request], 10, rows(1), everywhere) == [(9, 10, 11, 12)]
    assert draft.asked == [[("a", 4)]]


def test_a_request_that_ended_is_forgotten() -> None:
    draft = StandIn(right)
    speculator = Speculator(CONFIG, costs=AnyPrice(), draft=draft)
    request = counting()
    speculator.choose([request], 10, rows(1), everywhere)
    speculator.ended(request)
    assert draft.forgotten == ["a"]


def test_costs_of_a_pass_are_a_share_of_a_step_until_one_was_seen_and_then_its_own() -> None:
    costs = DraftCosts(LinearCosts(2.0, 0.0, 0.0), share=0.25)
    assert costs.of(1) == 0.5
    costs.note(1, 70.0)  # compiled meanwhile
    assert costs.of(1) == 0.5
    costs.note(10, 0.012)
    assert costs.of(10) == pytest.approx(0.012)
    assert costs.of(1) < 0.012
    for _ in range(60):
        costs.note(10, 0.024)
    assert costs.of(10) == pytest.approx(0.024, rel=0.01)
    costs.note(10, 50.0)  # held up
    assert costs.of(10) < 0.04


def test_steps_are_charged_without_what_the_draft_model_took() -> None:
    """A pass takes 3 seconds and the steps 1: the costs of steps that verify must not hold the passes."""
    now = [0.0]

    class Clocked(StandIn):
        def propose(self, requests: Sequence[Request], counts: Sequence[int]) -> Drawn:
            now[0] += 3.0 * max(counts)
            return super().propose(requests, counts)

    noted: list[tuple[int, float, bool]] = []

    class Noting(AnyPrice):
        def note(self, rows: int, seconds: float, *, waited: bool) -> None:
            noted.append((rows, seconds, waited))

    draft = Clocked(right, pass_s=3.0)
    speculator = Speculator(CONFIG, costs=Noting(), draft=draft)
    speculator._draft_costs = None
    config = SchedulerConfig(max_rows=8, max_step_tokens=16, max_model_len=40, chunk_align=4)
    scheduler = Scheduler(
        config,
        KVPoolSpec(block_size=4, num_blocks=20),
        BUCKETS,
        clock=lambda: now[0],
        speculator=speculator,
        block_listener=draft.fills,
    )
    scheduler.submit(counting(max_tokens=20))

    def step() -> StepPlan:
        plan = scheduler.plan()
        assert plan is not None
        scheduler.launch(plan)
        now[0] += 1.0
        scheduler.commit(plan, [right(row.request, row.start + row.length) for row in plan.rows])
        scheduler.check()
        return plan

    step()
    assert step().num_drafted == 4
    assert scheduler.drawing_s == 12.0
    assert noted == [(8, 1.0, True)]


def table(*blocks: int) -> Request:
    request = counting()
    request.block_ids, request.table_starts = [array("i", blocks)], [0]
    return request


def test_fills_belong_to_blocks() -> None:
    fills = DraftFills(20, block_size=4, group=0)
    first = table(3, 5, 7)
    assert fills.known(first) == 0
    fills.computed(first, 0, 6)
    assert fills.known(first) == 6
    fills.computed(first, 6, 7)
    assert fills.known(first) == fills.known(first, 4) == fills.known(first, 7) == 7
    assert fills.known(table(3, 5)) == 7  # another one of the same blocks
    assert fills.known(table(3, 9)) == 4
    fills.computed(table(3, 5), 0, 5)
    assert fills.known(first) == 7  # what was computed before is still there
    fills.touched([3, 5])
    fills.evicted(3)
    fills.cleared()
    assert fills.known(first) == 7
    fills.allocated([5])
    assert fills.known(first) == 4
    fills.allocated([3])
    assert fills.known(first) == 0
    fills.computed(first, 0, 12)
    assert fills.known(first) == 12
    fills.forget()
    assert fills.known(first) == 0


def test_several_are_told_of_blocks() -> None:
    one, other = (DraftFills(20, block_size=4, group=0) for _ in range(2))
    request = table(3)
    for fills in (one, other):
        fills.computed(request, 0, 4)
    both = BlockListeners(one, other)
    both.touched([3])
    both.evicted(3)
    both.cleared()
    assert one.known(request) == other.known(request) == 4
    both.allocated([3])
    assert one.known(request) == other.known(request) == 0
