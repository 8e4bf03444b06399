"""The scheduler under random operations, with every invariant re-derived after each of them.

Steps are committed as soon as they are launched, or while one or two later ones are on their way.
Some machines verify guesses, right and wrong ones, too many and too few.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import asdict

import pytest
from drafters import OracleDrafter, eager_speculator
from host_model import VOCAB, ShadowModel, check_blocks_lie_apart, count_slots, make_request, run_alone, scores_alone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jaxpaged.buckets import BucketTable
from jaxpaged.errors import CapacityError, ContextLengthError
from jaxpaged.plan import StepPlan
from jaxpaged.request import PENDING, FinishReason, Logprob, Request, RequestState, TokenEvent
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig
from jaxpaged.speculation.speculator import Speculator

BLOCK = 4
LONGEST = 30
SHAPES = st.tuples(
    st.integers(6, 12),  # blocks for each group
    st.sampled_from([1, 2, 3, 4, 4]),  # rows
    st.sampled_from([(8, 1), (8, 4), (9, 4), (16, 4), (16, 8)]),  # step tokens and chunk_align
    st.sampled_from([True, True, True, False]),  # prefix caching
    st.sampled_from([(None,), (None,), (None, 5), (5,), (9, 9), (None, 3, 8), (1, None), (4, None, None)]),  # windows
    st.integers(0, 3),  # max_preemptions
    st.sampled_from([0, 1, 1, 2]),  # steps in flight while the next one is planned
    # guesses: rows for one request at most, how many are made, and the share of right ones
    st.sampled_from([None, None, (1, 2, 0.5), (3, 4, 0.8), (3, 9, 1.0), (2, 3, 0.0)]),
)
# (beginning, length, answer): few beginnings, so that prefixes are shared
PROMPTS = st.tuples(st.integers(0, 2), st.integers(1, 18), st.integers(1, 14))
OPTIONS = st.sampled_from([(0, (), (), "")] * 6 + [(0, (1,), (2,), ""), (3, (3,), (4, 5), ""), (0, (), (), "tenant")])
SCORED = st.sampled_from([None, None, None, 1])  # prompt_logprobs
FOLLOWERS = st.sampled_from([0, 0, 0, 0, 1, 2, 3, 4])
Results = tuple[list[int], list[bool], list[list[dict[int, Logprob]]] | None]  # tokens, finite, scores of each row


class SchedulerMachine(RuleBasedStateMachine):
    scheduler: Scheduler

    @initialize(shape=SHAPES)
    def build(
        self,
        shape: tuple[int, int, tuple[int, int], bool, tuple[int | None, ...], int, int, tuple[int, int, float] | None],
    ) -> None:
        blocks, rows, (tokens, align), prefix_caching, windows, max_preemptions, ahead, guesses = shape
        config = SchedulerConfig(
            max_rows=rows,
            max_step_tokens=tokens,
            max_model_len=LONGEST,
            chunk_align=align,
            prefix_caching=prefix_caching,
            max_preemptions=max_preemptions,
        )
        self.num_blocks = 1 + (blocks - 1) * len(windows)
        buckets = BucketTable.build(max_rows=rows, max_step_tokens=tokens, min_rows=min(rows, 2), min_step_tokens=8)
        pool = KVPoolSpec(block_size=BLOCK, num_blocks=self.num_blocks, windows=windows)
        self.scheduler = Scheduler(config, pool, buckets, speculator=guesses and speculator(*guesses))
        self.model = ShadowModel(self.scheduler, max_model_len=LONGEST)
        self.windows = windows
        self.chunk = tokens
        self.ahead = ahead
        self.flying: deque[tuple[StepPlan, Results]] = deque()  # with what the device found
        self.spoilt: set[str] = set()  # requests that a step in flight finds not finite
        self.count = 0
        self.live: dict[str, Request] = {}
        self.siblings: dict[str, list[str]] = {}  # of each, all requests of one submission
        self.outputs: dict[str, list[int]] = {}

    @rule(prompt=PROMPTS, options=OPTIONS, scored=SCORED, followers=FOLLOWERS)
    def submit(
        self,
        prompt: tuple[int, int, int],
        options: tuple[int, tuple[int], tuple[int], str],
        scored: int | None,
        followers: int,
    ) -> None:
        beginning, length, answer = prompt
        min_tokens, stop_token_ids, eos, salt = options
        tokens = [(i * (beginning + 1) + (i == 9) * self.count) % VOCAB for i in range(length)]
        self.count += 1
        request, *others = (
            make_request(
                f"r{self.count}.{i}",
                tokens,
                max_tokens=max(1, answer - 3 * (i % 2)),
                min_tokens=min(min_tokens, max(1, answer - 3 * (i % 2))),
                stop_token_ids=stop_token_ids,
                eos=eos,
                salt=salt,
                prompt_logprobs=scored,
                seed=i,
            )
            for i in range(1 + followers)
        )
        there = self.num_blocks - 1
        if length + answer > LONGEST:
            with pytest.raises(ContextLengthError):
                self.scheduler.submit(request, others)
        elif self.needs(length + answer - 1) > there:
            with pytest.raises(CapacityError, match=f"the pool has {there}"):
                self.scheduler.submit(request, others)
        else:
            self.scheduler.submit(request, others)
            for one in (request, *others):
                self.live[one.id] = one
                self.outputs[one.id] = []
                self.siblings[one.id] = [request.id, *(other.id for other in others)]

    @precondition(lambda self: self.live)
    @rule(repeat=st.integers(1, 6))
    def step(self, repeat: int) -> None:
        for _ in range(repeat):
            self.land(self.ahead if self.launch() else 0)

    @precondition(lambda self: len(self.live) > 2)  # or there is never a shortage
    @rule(place=st.integers(0, 9))
    def step_not_finite(self, place: int) -> None:
        self.land(self.ahead if self.launch(spoil=place) else 0)

    @precondition(lambda self: len(self.live) > 2)  # or there is never a shortage
    @rule(place=st.integers(0, 9), before=st.booleans())
    def step_with_abort(self, place: int, before: bool) -> None:
        """Somebody leaves between plan and launch, before or after the step is packed."""
        plan = self.plan()
        if not self.live:  # they ended with steps that had to be committed first
            return
        doomed = list(self.live.values())[place % len(self.live)]
        if plan is None:
            self.leave(doomed)
            self.land(0)
            return
        if before and not any(row.request is doomed for row in plan.rows):
            self.leave(doomed)
            tokens = self.model.execute(plan)
        else:
            tokens = self.model.execute(plan)
            self.leave(doomed)
        self.scheduler.launch(plan)
        self.flying.append((plan, (tokens, [True] * len(tokens), self.model.scores)))
        self.land(self.ahead)

    @precondition(lambda self: self.live)
    @rule()
    def plan_is_void(self) -> None:
        """A step that broke down before its commit is planned anew."""
        self.plan()

    @precondition(lambda self: len(self.live) > 2)  # or there is never a shortage
    @rule(place=st.integers(0, 9))
    def abort(self, place: int) -> None:
        self.leave(list(self.live.values())[place % len(self.live)])

    @precondition(lambda self: self.count % 5 == 4)
    @rule()
    def reset(self) -> None:
        self.scheduler.reset_prefix_cache()

    @precondition(lambda self: self.live)
    @rule()
    def ledger_is_exact(self) -> None:
        assert count_slots(self.scheduler) == asdict(self.scheduler.ledger())

    @invariant()
    def sound(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        scheduler = self.scheduler
        scheduler.check()
        check_blocks_lie_apart(scheduler)
        ledger = scheduler.ledger()
        assert ledger.total == self.num_blocks * BLOCK
        if not scheduler.config.prefix_caching:
            assert ledger.cached == 0
            if not scheduler._cache.pool.num_shared:  # forks
                assert ledger.shared == 0
                assert ledger.live + ledger.behind == ledger.tokens
        self.model.poison()

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for _ in range(sum(r.num_tokens + r.max_tokens for r in self.live.values()) * 6):
            if not self.launch() and not self.flying:
                break
            self.land(0)
        assert not self.live, "every admitted request ends"
        assert not self.scheduler.has_work
        ledger = self.scheduler.ledger()
        assert ledger.live == ledger.shared == ledger.tail == ledger.contiguous == 0
        self.scheduler.reset_prefix_cache()
        assert self.scheduler.ledger().free == (self.num_blocks - 1) * BLOCK

    def needs(self, tokens: int) -> int:
        """The most blocks that a context holds, tried out at every place where a chunk of any length may begin."""
        most = 0
        for window in self.windows:
            held = [
                range(max(0, start - (window or LONGEST) + 1) // BLOCK, -(-min(tokens, start + self.chunk) // BLOCK))
                for start in range(tokens)
            ]
            most += max(map(len, held))
        return most

    def plan(self) -> StepPlan | None:
        while self.scheduler.needs_commit():
            self.land(len(self.flying) - 1)
        running = self.scheduler.roster.running
        nobody_ends = not any(request.has_all_tokens for request in running)
        oldest = running[0] if running and nobody_ends else None
        plan = self.scheduler.plan()
        if plan is None:
            assert self.flying or not self.live
            return None
        requests = [row.request for row in plan.rows]
        first = [id(row.request) for row in plan.rows if not row.draft]
        assert len(set(first)) == len(first), "a request has two rows"
        assert oldest is None or oldest in requests, "the oldest running request is in every step"
        config = self.scheduler.config
        for row in plan.rows:
            end = row.start + row.length
            assert row.samples == (end == len(row.tokens))
            assert row.samples or end % config.chunk_align == 0
            num_output = len(row.tokens) - len(row.request.prompt)
            assert num_output < row.request.max_tokens, "a row for a request that has all its tokens"
        return plan

    def launch(self, *, spoil: int | None = None) -> bool:
        """Plan and run a step; spoil: a row of it that is not finite. False where there is nothing to run."""
        plan = self.plan()
        if plan is None:
            return False
        bad = None if spoil is None else spoil % len(plan.rows)
        tokens = self.model.execute(plan)
        self.scheduler.launch(plan)
        self.flying.append((plan, (tokens, [i != bad for i in range(len(tokens))], self.model.scores)))
        if bad is not None:
            self.spoilt.update(self.siblings[plan.rows[bad].request.id])
        self.sound()
        return True

    def land(self, keep: int) -> None:
        """Commit the oldest steps but `keep`."""
        while len(self.flying) > keep:
            plan, (tokens, finite, scores) = self.flying.popleft()
            self.take(self.scheduler.commit(plan, tokens, finite=finite, prompt_logprobs=scores))
            self.sound()

    def take(self, events: list[TokenEvent]) -> None:
        for event in events:
            request = self.live[event.request_id]
            if event.token is None:
                assert event.finish is FinishReason.ERROR
                assert event.error
                assert request.id in self.spoilt
                self.drop(request)
                continue
            output = self.outputs[request.id]
            assert event.prompt_logprobs == (None if output else scores_alone(request))
            output.append(event.token)
            known = [token for token in request.tokens if token != PENDING]
            assert known[: len(request.prompt) + len(output)] == [*request.prompt, *output]
            if event.finish is not None:
                assert (output, event.finish, event.stop_reason) == run_alone(request)
                assert PENDING not in request.tokens
                self.drop(request)
        for name, output in self.outputs.items():
            known = [token for token in self.live[name].tokens if token != PENDING]
            assert known == [*self.live[name].prompt, *output], "a token was told late, or never"

    def leave(self, request: Request) -> None:
        assert self.scheduler.abort(request.id)
        assert not self.scheduler.abort(request.id)
        self.drop(request)

    def drop(self, request: Request) -> None:
        assert request.state is RequestState.FINISHED
        assert request.block_ids == []
        assert self.outputs[request.id] == run_alone(request)[0][: len(self.outputs[request.id])]
        del self.live[request.id], self.outputs[request.id]


def speculator(most: int, length: int, share: float) -> Speculator:
    """Guesses of requests of this model, `length` at a time, of which `most` may get a row and `share` are right."""
    rng = random.Random(length)

    def make(request: Request) -> OracleDrafter:
        return OracleDrafter(request, run_alone(request)[0], length=length, share=share, vocab=VOCAB, rng=rng)

    return eager_speculator(make, most=most)


SETTINGS = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
LONG = settings(SETTINGS, max_examples=2000)
TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = SETTINGS


@pytest.mark.long
@pytest.mark.timeout(1100)  # about three minutes on an idle core; a busy one may take long, and the command has a limit
class TestSchedulerLong(SchedulerMachine.TestCase):
    settings = LONG
