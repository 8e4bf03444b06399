"""Held requests: each draws, waits for the others, and goes on as whichever of them it is told to, in any schedule."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import asdict

import pytest
from host_model import VOCAB, ShadowModel, check_blocks_lie_apart, count_slots, make_request, run_alone, states_of

from jaxpaged.buckets import BucketTable
from jaxpaged.kv_pool_spec import KVPoolSpec
from jaxpaged.plan import StepPlan
from jaxpaged.request import FinishReason, Request, RequestState, TokenEvent
from jaxpaged.scheduler import Scheduler, SchedulerConfig

SIZE = 4
LONGEST = 40


class Stand:
    """Random choices for held requests, over a shadow model; others beside them answer as they would alone."""

    def __init__(self, rng: random.Random, *, blocks: int, windows: tuple[int | None, ...] = (None,)) -> None:
        rows, tokens = rng.choice([4, 5, 8]), rng.choice([9, 16])
        config = SchedulerConfig(
            max_rows=rows,
            max_step_tokens=tokens,
            max_model_len=LONGEST,
            chunk_align=4,
            prefix_caching=rng.random() < 0.7,
            max_preemptions=rng.choice([0, 1, 3]),
        )
        buckets = BucketTable.build(max_rows=rows, max_step_tokens=tokens, min_rows=2, min_step_tokens=8)
        pool = KVPoolSpec(block_size=SIZE, num_blocks=1 + blocks * len(windows), windows=windows)
        self.rng, self.scheduler = rng, Scheduler(config, pool, buckets)
        self.model = ShadowModel(self.scheduler, max_model_len=LONGEST)
        self.ahead = rng.choice([0, 1])
        self.flying: deque[tuple[StepPlan, list[int]]] = deque()
        self.groups: list[list[Request]] = []
        self.outputs: dict[str, list[int]] = {}
        self.others: dict[str, Request] = {}
        self.count = 0
        self.chosen = 0

    def submit_group(self, width: int, length: int, answer: int) -> None:
        self.count += 1
        tokens = [self.rng.randrange(VOCAB) for _ in range(length)]
        made = [make_request(f"h{self.count}.{i}", tokens, max_tokens=answer, seed=i) for i in range(width)]
        for request in made:
            request.held = True
        self.scheduler.submit(made[0], made[1:])
        self.groups.append(made)

    def submit_other(self, length: int, answer: int) -> None:
        self.count += 1
        request = make_request(f"o{self.count}", [self.rng.randrange(VOCAB) for _ in range(length)], max_tokens=answer)
        self.scheduler.submit(request)
        self.others[request.id], self.outputs[request.id] = request, []

    def step(self) -> None:
        plan = self.scheduler.plan()
        if plan is not None:
            tokens = self.model.execute(plan)
            self.scheduler.launch(plan)
            self.flying.append((plan, tokens))
            self.sound()
        while len(self.flying) > (self.ahead if plan else 0):
            plan, tokens = self.flying.popleft()
            for event in self.scheduler.commit(plan, tokens):
                self.take(event)
            self.sound()
            self.choose()
        assert plan is not None or self.flying or not self.scheduler.has_work

    def take(self, event: TokenEvent) -> None:
        if event.request_id in self.others:
            assert event.token is not None
            self.outputs[event.request_id].append(event.token)
        else:
            assert event.finish is None

    def choose(self) -> None:
        for group in [group for group in self.groups if all(request.paused for request in group)]:
            if any(request.has_all_tokens for request in group):
                for request in group:
                    assert self.scheduler.abort(request.id)
                    assert (request.state, request.block_ids) == (RequestState.FINISHED, [])
                self.groups.remove(group)
                continue
            parents = self.rng.sample(group, self.rng.randint(1, len(group)))
            fresh = [request for request in group if request not in parents]
            picks = [(parent, parent, self.rng.randrange(VOCAB)) for parent in parents]
            picks += [(request, self.rng.choice(parents), self.rng.randrange(VOCAB)) for request in fresh]
            if self.rng.random() < 0.2 and len(picks) > len(parents):
                picks.pop()  # one rests on
            histories = {id(request): request.tokens[:-1] for request in group}
            self.scheduler.choose(picks)
            self.chosen += 1
            for request, parent, token in picks:
                assert request.tokens == [*histories[id(parent)], token]
                self.model._tokens[request.id] = [*request.tokens]
                self.model._states[request.id] = states_of(request.tokens, request.salt)
            self.sound()

    def sound(self) -> None:
        self.scheduler.check()
        check_blocks_lie_apart(self.scheduler)
        assert count_slots(self.scheduler) == asdict(self.scheduler.ledger())
        self.model.poison()

    def finish(self) -> None:
        for _ in range(2000):
            if not self.scheduler.has_work:
                break
            self.step()
        assert not self.scheduler.has_work, "every request ends"
        assert not self.groups
        for name, output in self.outputs.items():
            assert (output, FinishReason.LENGTH) == run_alone(self.others[name])[:2]


def test_two_beams_by_hand() -> None:
    stand = Stand(random.Random(0), blocks=20)
    made = [make_request(f"h{i}", [1, 2, 3, 4, 5, 6], max_tokens=5) for i in range(2)]
    for request in made:
        request.held = True
    scheduler = stand.scheduler
    scheduler.submit(made[0], made[1:])

    def step() -> StepPlan:
        plan = scheduler.plan()
        assert plan is not None
        scheduler.launch(plan)
        assert scheduler.plan() is None, "what they go on with is not known yet"
        assert [event.finish for event in scheduler.commit(plan, [0] * len(plan.rows))] == [None] * len(plan.rows)
        assert [request.paused for request in made] == [True, True]
        assert scheduler.plan() is None, "nor is it chosen yet"
        scheduler.check()
        return plan

    step()
    assert [list(request.block_ids[0]) for request in made] == [[1, 2], [1, 2]]
    scheduler.choose([(made[0], made[0], 3), (made[1], made[0], 4)])
    assert [request.tokens[6:] for request in made] == [[3], [4]]
    assert step().copies == ((2, 3),)
    assert [list(request.block_ids[0]) for request in made] == [[1, 3], [1, 2]]
    scheduler.choose([(made[1], made[1], 5), (made[0], made[1], 6)])  # the first one dies, and goes on as a fork
    assert [request.tokens[6:] for request in made] == [[4, 6], [4, 5]]
    assert [list(request.block_ids[0]) for request in made] == [[1, 2], [1, 2]]
    assert scheduler._cache.pool.num_referenced == 2
    assert step().copies == ((2, 3),)
    for request in made:
        scheduler.abort(request.id)
    assert scheduler._cache.pool.num_referenced == 0


@pytest.mark.parametrize("windows", [(None,), (None, 5), (3,)], ids=str)
def test_any_choice_in_any_schedule(windows: tuple[int | None, ...]) -> None:
    preemptions = chosen = 0
    for seed in range(80):
        rng = random.Random(seed)
        stand = Stand(rng, blocks=rng.choice([16, 16, 18, 30]), windows=windows)
        for _ in range(rng.randint(1, 3)):
            stand.submit_group(rng.randint(2, 4), rng.randint(1, 9), rng.randint(1, 7))
            for _ in range(rng.randint(0, 3)):
                stand.submit_other(rng.randint(1, 20), rng.randint(5, 14))
            for _ in range(rng.randint(0, 4)):
                stand.step()
        stand.finish()
        preemptions += stand.scheduler.num_preemptions
        chosen += stand.chosen
    assert chosen > 200
    assert preemptions > 3 or windows != (None,)  # windows need little
