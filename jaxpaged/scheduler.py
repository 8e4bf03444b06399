"""Which tokens are computed in the next step, and what became of them. [host half: no jax]

Owns every request from `submit` to its end, in order of age: running ones are always older than waiting ones, since
admission is first come, first served and only the youngest running request is ever preempted (its blocks are released,
it goes back to the front of the queue, and its tokens are computed again).

A step goes through three calls: `plan` decides, `launch` says that it is on its way, `commit` takes in its results. The
next step may be planned before the results of a launched one are there: a token that it draws is `PENDING` until then,
and only the device knows it. Steps run in order, so blocks given up by then may be written by later steps only.

Why each step makes progress: requests are served from the oldest on. The oldest may preempt all others, and it fits
into the pool alone (`submit` sees to that), so it gets at least one token in every step and ends.
Why preemptions are bounded: a request preempted `max_preemptions` times is admitted again only when its longest life
and those of all running requests, all older, fit together; from then on none of them can lack a block that would
have to come from it. Both count blocks of all KV groups, since they have one pool (`KVDemand`: of a group with a window
a life takes the window and a chunk); what is held beyond that is kept for the prefix cache alone, and goes first.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from jaxpaged.blockmap import BlockMap
from jaxpaged.buckets import BucketTable
from jaxpaged.errors import ConfigError, RequestError
from jaxpaged.events import failure, token_event
from jaxpaged.kvcache import KVCache, KVPoolSpec, PrefixMatch
from jaxpaged.ledger import KVLedger
from jaxpaged.limits import SchedulerConfig, check_request, longest_life, prompt_tokens
from jaxpaged.plan import RowPlan, StepPlan
from jaxpaged.prefix import PrefixListener
from jaxpaged.request import PENDING, FinishReason, Logprob, Request, RequestState, TokenEvent
from jaxpaged.residency import BlockResidency


class Scheduler:
    """Requests in, step plans and token events out. Deterministic; not thread-safe.

    A plan is void once the next one is made, unless it was launched; launched ones are committed in their order.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        pool: KVPoolSpec,
        buckets: BucketTable,
        *,
        clock: Callable[[], float] = time.monotonic,
        listener: PrefixListener | None = None,
        residency: BlockResidency | None = None,
    ) -> None:
        for name, value, limit in (
            ("max_rows", config.max_rows, buckets.max_rows),
            ("max_step_tokens", config.max_step_tokens, buckets.max_step_tokens),
        ):
            if value > limit:
                raise ConfigError(name=name, value=value, limit=f"the buckets end at {limit}")
        self.config = config
        self.num_preemptions = 0
        self.num_prompt_tokens = 0  # of admitted requests, once each
        self.num_cached_tokens = 0  # of these, served by the prefix cache
        self.buckets = buckets
        self._clock = clock
        self._cache = KVCache(
            pool,
            chunk=config.max_step_tokens,
            prefix_caching=config.prefix_caching,
            dtype=config.kv_dtype,
            listener=listener,
            residency=residency,
        )
        self._requests: dict[str, Request] = {}  # oldest first
        self._running: list[Request] = []  # oldest first
        self._waiting: deque[Request] = deque()  # oldest first
        self._plan: StepPlan | None = None
        self._in_flight: deque[StepPlan] = deque()  # launched, not committed; oldest first
        self._seats = list(range(config.num_seats - 1, -1, -1))  # a stack: the lowest is on top

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    @property
    def longest_wait_s(self) -> float:
        """Seconds since the arrival of the first request in the queue; 0 where none waits."""
        return self._clock() - self._waiting[0].arrival_s if self._waiting else 0.0

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests

    def submit(self, request: Request) -> None:
        """Put a request at the end of the queue.

        Raises RequestError for an id in flight, and what `check_request` raises; nothing changes then.
        """
        if request.id in self._requests:
            raise RequestError(name="request id", value=request.id, limit="a request with this id is in flight")
        cache, longest = self._cache, self.config.max_model_len
        check_request(request, max_model_len=longest, demand=cache.demand, max_blocks=cache.max_blocks)
        assert request.state is RequestState.WAITING, f"request {request.id!r} was submitted before"
        assert not request.block_ids
        assert request.num_computed == 0
        self._requests[request.id] = request
        self._waiting.append(request)

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> bool:
        """End a request now, in any state; its blocks are free at return. False where it is not in flight."""
        return self.finish(request_id, reason) is not None

    def finish(self, request_id: str, reason: FinishReason, stop_reason: int | str | None = None) -> TokenEvent | None:
        """End a request for a reason seen outside, such as a stop string. None where it is not in flight."""
        request = self._requests.get(request_id)
        if request is None:
            return None
        self._release(request, reason)
        return TokenEvent(request_id=request_id, token=None, finish=reason, stop_reason=stop_reason)

    def reset_prefix_cache(self) -> None:
        """Forget all cached prefixes; requests in flight go on undisturbed."""
        self._cache.forget_prefixes()

    def plan(self) -> StepPlan | None:
        """Choose the next step's tokens, at least one; None where there is nothing to compute before a commit."""
        self._plan = None
        rows, spare = self._plan_running()
        if self._waiting and spare:
            self._plan_waiting(rows)
        if not rows:
            assert self._in_flight or not self._requests, "work is left, none in flight, and nothing is scheduled"
            return None
        rows.sort(key=lambda row: row.length > 1)  # stable: one-token rows first, each kind by age
        num_tokens = sum(row.length for row in rows)
        assert num_tokens <= self.config.max_step_tokens
        bucket = self.buckets.fit(num_tokens, len(rows), decode=num_tokens == len(rows))
        self._plan = StepPlan(rows=tuple(rows), bucket=bucket)
        return self._plan

    def launch(self, plan: StepPlan) -> None:
        """Note that the latest plan is on its way: what it computes counts as computed, what it draws as tokens."""
        assert plan is self._plan, "only the latest plan can be launched, and once"
        self._plan = None
        self._in_flight.append(plan)
        for request, start, count, samples in plan.rows:
            if request.state is RequestState.RUNNING:  # it may have ended since the plan
                assert request.num_computed == start, f"request {request.id!r} moved since the plan"
                request.num_computed = start + count
                if request.params.prompt_logprobs is not None:
                    request.num_scored = max(request.num_scored, min(start + count, request.num_to_score))
                if samples:
                    request.tokens.append(PENDING)

    def commit(
        self,
        plan: StepPlan,
        tokens: Sequence[int],
        *,
        finite: Sequence[bool] | None = None,
        logprobs: Sequence[Mapping[int, Logprob] | None] | None = None,
        prompt_logprobs: Sequence[Sequence[Mapping[int, Logprob]]] | None = None,
    ) -> list[TokenEvent]:
        """Take in the results of the oldest launched step, one entry per row of its plan.

        tokens and logprobs are ignored where the row does not sample; finite holds for every row, since a chunk that is
        not finite has spoilt the request's KV. prompt_logprobs: of the prompt tokens that the step scored. Rows of
        requests that ended meanwhile are skipped: a token drawn after the one that ended its request is dropped.
        """
        oldest = self._in_flight[0] if self._in_flight else None
        assert plan is oldest, "steps are committed once, and in the order of launch"
        for name, given in (
            ("tokens", tokens),
            ("finite", finite),
            ("logprobs", logprobs),
            ("scores", prompt_logprobs),
        ):
            assert given is None or len(given) == len(plan.rows), f"{len(given)} {name} for {len(plan.rows)} rows"
        self._in_flight.popleft()
        events: list[TokenEvent] = []
        for i, (request, start, count, samples) in enumerate(plan.rows):
            if request.state is RequestState.FINISHED:
                continue
            end = start + count
            if (finite is not None and not finite[i]) or (samples and tokens[i] < 0):
                self._release(request, FinishReason.ERROR)
                events.append(failure(request, end - 1))
                continue
            if prompt_logprobs is not None:
                request.prompt_logprobs += prompt_logprobs[i]
            if samples:
                assert request.tokens[end] == PENDING, f"request {request.id!r} has its token at {end} already"
                request.tokens[end] = tokens[i]
            if request.state is RequestState.RUNNING:  # else it was preempted since, and has no blocks
                self._cache.publish(request, start, end)
            if samples:
                event = token_event(request, end, logprobs[i] if logprobs is not None else None)
                if event.finish is not None:
                    self._release(request, event.finish)
                events.append(event)
        return events

    def ledger(self) -> KVLedger:
        """Classes of all slots of the pool; O(running requests)."""
        return self._cache.ledger(self._running, max_model_len=self.config.max_model_len)

    def block_map(self) -> BlockMap:
        """Class and holder of every block; O(blocks)."""
        return BlockMap.of(self._cache, self._running)

    def check(self) -> None:
        """Assert the invariants: age order, states, seats, and I-POOL with every reference count re-derived."""
        in_flight = [*self._running, *self._waiting]
        assert list(self._requests.values()) == in_flight, "running and waiting requests are not in order of age"
        assert sum(not request.has_all_tokens for request in self._running) <= self.config.max_rows
        seats = sorted([*self._seats, *(request.seat for request in self._running)])
        assert seats == list(range(self.config.num_seats)), f"seats are lost or taken twice: {seats}"
        for request in in_flight:
            assert self._requests[request.id] is request
            assert request.num_preemptions <= self.config.max_preemptions
            assert request.num_output <= request.max_tokens
            assert not request.has_all_tokens or request.tokens[-1] == PENDING, f"{request.id!r} has all its tokens"
        for request in self._running:
            assert request.state is RequestState.RUNNING
            assert 0 <= request.num_computed < request.num_tokens
            assert len(request.block_ids) == self._cache.num_groups
            assert len(request.block_ids[0]) <= self._cache.blocks_for(longest_life(request))
        for request in self._waiting:
            assert request.state is RequestState.WAITING
            assert request.seat < 0
            assert request.num_computed == 0
            assert not request.block_ids, f"request {request.id!r} waits, but holds blocks"
        self._cache.check(self._running)
        ledger = self.ledger()
        assert ledger.total == self._cache.pool.num_blocks * self._cache.block_size, ledger

    def _plan_running(self) -> tuple[list[RowPlan], bool]:
        """A row for every running request, oldest first, as far as tokens and blocks go.

        Also whether that leaves room for others: whoever runs has the first claim, so none is admitted beside one that
        got nothing, or in place of a victim.
        """
        rows: list[RowPlan] = []
        budget, chunked, spare, preemptions = self.config.max_step_tokens, False, True, self.num_preemptions
        i = 0
        while i < len(self._running):  # the list may get shorter at its end meanwhile
            request = self._running[i]
            i += 1
            if request.has_all_tokens:
                continue  # it ends with the step in flight
            uncomputed = request.num_uncomputed
            if uncomputed == 1:
                count = min(1, budget)
            else:
                kept = sum(r.num_uncomputed == 1 and not r.has_all_tokens for r in self._running[i:])
                others = self._prompt_tokens_after(i) if uncomputed > self.config.fair_chunk else 0
                count = self.config.chunk(request, request.num_computed, budget - kept, others)
                if count == 0 and not chunked:
                    # one prompt goes on in every step, if need be at the cost of younger rows
                    count = self.config.chunk(request, request.num_computed, budget, others)
            if count and self._make_room(request, request.num_computed + count):
                chunked |= uncomputed > 1
                budget -= count
                rows.append(RowPlan.of(request, count))
            else:
                spare = False
        return rows, spare and self.num_preemptions == preemptions

    def _plan_waiting(self, rows: list[RowPlan]) -> None:
        """Admit requests from the front of the queue while tokens, rows and blocks last; appends their rows."""
        budget = self.config.max_step_tokens - sum(row.length for row in rows)
        promised = self._promised()
        while self._waiting and budget > 0 and len(rows) < self.config.max_rows and self._seats:
            request = self._waiting[0]
            if self._is_in_flight(request):
                break
            match = self._cache.match(request)
            if not self._can_admit(request, match, promised):
                break
            start = match.num_blocks * self._cache.block_size
            others = 0
            if request.num_tokens - start > self.config.fair_chunk:
                others = self._queue_tokens(1, promised + self._cache.missing(match, request.num_tokens))
            count = self.config.chunk(request, start, budget, others)
            if count == 0:
                break
            self._admit(request, match)
            self._cache.grow(request, start + count)
            promised += self._cache.lacks(request, request.num_tokens)
            budget -= count
            rows.append(RowPlan.of(request, count))

    def _prompt_tokens_after(self, i: int) -> int:
        """Tokens that prompts behind running request i could use in this step."""
        limit = self.config.max_step_tokens
        tokens = prompt_tokens(self._running[i:], limit)
        return tokens if tokens >= limit else tokens + self._queue_tokens(0, self._promised())

    def _queue_tokens(self, first: int, promised: int) -> int:
        """Tokens that waiting prompts from place `first` on could use in this step; none where that one must wait."""
        last = min(len(self._waiting), self.config.max_rows - len(self._running))
        if first >= last:
            return 0
        request = self._waiting[first]
        if self._is_in_flight(request) or not self._can_admit(request, self._cache.match(request), promised):
            return 0
        return prompt_tokens(islice(self._waiting, first, last), self.config.max_step_tokens)

    def _is_in_flight(self, request: Request) -> bool:
        """Whether a waiting request was preempted while a step computed for it, whose results are still to come: they
        must not be taken for those of what it computes anew."""
        flying = (row.request for plan in self._in_flight for row in plan.rows) if request.num_preemptions else ()
        return request.tokens[-1] == PENDING or any(other is request for other in flying)

    def _promised(self) -> int:
        """Blocks that running requests still need for the tokens they have."""
        return sum(self._cache.lacks(request, request.num_tokens) for request in self._running)

    def _can_admit(self, request: Request, match: PrefixMatch, promised: int) -> bool:
        """Whether all its tokens fit beside what running requests were promised. The more often it was preempted, the
        more room to grow must be left for them, so that it is not preempted again at once."""
        running = self._running
        if running and request.num_preemptions >= self.config.max_preemptions:
            blocks = self._cache.demand.blocks
            longest_lives = sum(blocks(longest_life(other)) for other in running) + blocks(longest_life(request))
            return longest_lives <= self._cache.max_blocks
        spare = promised + request.num_preemptions * len(running) * self._cache.num_groups
        return self._cache.can_admit(match, request.num_tokens, spare=spare)

    def _admit(self, request: Request, match: PrefixMatch) -> None:
        first = self._waiting.popleft()
        assert first is request, "admission is first come, first served"
        self._cache.admit(request, match)
        request.state = RequestState.RUNNING
        request.seat = self._seats.pop()
        self._running.append(request)
        if request.num_preemptions == 0:
            request.admitted_s = self._clock()
            request.num_cached = min(request.num_computed, len(request.prompt))
            self.num_prompt_tokens += len(request.prompt)
            self.num_cached_tokens += request.num_cached

    def _make_room(self, request: Request, num_tokens: int) -> bool:
        """Let a running request hold `num_tokens` tokens, preempting younger ones; False: it must wait."""
        if num_tokens <= len(request.block_ids[0]) * self._cache.block_size:
            return True
        while not self._cache.make_room(request, num_tokens, self._running):
            victim = self._running[-1]
            if victim is request:
                # keeps its blocks: older requests take them if they must, and else it need not compute them again
                assert len(self._running) > 1, f"request {request.id!r} does not fit alone"
                return False
            self._preempt(victim)
        self._cache.grow(request, num_tokens)
        return True

    def _preempt(self, victim: Request) -> None:
        assert victim is self._running[-1], "only the youngest is preempted"
        assert len(self._running) > 1, "the oldest is never preempted"
        self._running.pop()
        self._vacate(victim)
        victim.state = RequestState.WAITING
        self._waiting.appendleft(victim)
        if victim.has_all_tokens:
            return  # it ends with the step in flight, nothing is computed again
        assert victim.num_preemptions < self.config.max_preemptions, f"request {victim.id!r} is preempted too often"
        victim.num_preemptions += 1
        self.num_preemptions += 1

    def _release(self, request: Request, reason: FinishReason) -> None:
        """The one way out, for every ending."""
        assert request.state is not RequestState.FINISHED, f"request {request.id!r} ended before"
        del self._requests[request.id]
        if request.state is RequestState.RUNNING:
            self._running.remove(request)
            self._vacate(request)
        else:
            self._waiting.remove(request)
        while request.tokens[-1] == PENDING:
            request.tokens.pop()
        request.state = RequestState.FINISHED
        request.finish = reason

    def _vacate(self, request: Request) -> None:
        self._cache.release(request)
        self._seats.append(request.seat)
        request.seat = -1


__all__ = ["KVLedger", "KVPoolSpec", "RowPlan", "Scheduler", "SchedulerConfig", "StepPlan"]
