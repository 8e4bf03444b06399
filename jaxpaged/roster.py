"""Who is here: every request in flight, in order of age, running or waiting, and the seats. [host half: no jax]

Owns the ways of a request: into the queue, onto a seat, back to the queue's front (preemption), and out, which is one
way for every ending. Running requests are always older than waiting ones: admission is first come, first served, and
only the youngest running one is ever preempted. Which request goes which way, and when, is the planner's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from jaxpaged.kvcache import KVCache, PrefixMatch
from jaxpaged.limits import SchedulerConfig, longest_life
from jaxpaged.request import PENDING, FinishReason, Request, RequestState


class Roster:
    """The requests in flight. What waits holds no block and no seat; what runs holds both."""

    def __init__(self, config: SchedulerConfig, cache: KVCache, *, clock: Callable[[], float]) -> None:
        self.num_preemptions = 0
        self.num_prompt_tokens = 0  # of admitted requests, once each
        self.num_cached_tokens = 0  # of these, served by the prefix cache
        self.requests: dict[str, Request] = {}  # oldest first
        self.running: list[Request] = []  # oldest first
        self.waiting: deque[Request] = deque()  # oldest first
        self.seats = list(range(config.num_seats - 1, -1, -1))  # free ones; a stack: the lowest is on top
        self._config = config
        self._cache = cache
        self._clock = clock

    @property
    def longest_wait_s(self) -> float:
        """Seconds since the arrival of the first request in the queue; 0 where none waits."""
        return self._clock() - self.waiting[0].arrival_s if self.waiting else 0.0

    def queue(self, request: Request) -> None:
        """Put a new request at the end of the queue."""
        assert request.id not in self.requests
        assert request.state is RequestState.WAITING, f"request {request.id!r} was submitted before"
        assert not request.block_ids
        assert request.num_computed == 0
        self.requests[request.id] = request
        self.waiting.append(request)

    def admit(self, request: Request, match: PrefixMatch) -> None:
        """Let the first request of the queue run, beginning with what the prefix cache has of it."""
        first = self.waiting.popleft()
        assert first is request, "admission is first come, first served"
        self._cache.admit(request, match)
        request.state = RequestState.RUNNING
        request.seat = self.seats.pop()
        self.running.append(request)
        if request.num_preemptions == 0:
            request.admitted_s = self._clock()
            request.num_cached = min(request.num_computed, len(request.prompt))
            self.num_prompt_tokens += len(request.prompt)
            self.num_cached_tokens += request.num_cached

    def preempt(self, victim: Request) -> None:
        """Take blocks and seat from the youngest running request and put it to the front of the queue."""
        assert victim is self.running[-1], "only the youngest is preempted"
        assert len(self.running) > 1, "the oldest is never preempted"
        self.running.pop()
        self._vacate(victim)
        victim.state = RequestState.WAITING
        self.waiting.appendleft(victim)
        if victim.has_all_tokens:
            return  # it ends with the step in flight, nothing is computed again
        limit = self._config.max_preemptions
        assert victim.num_preemptions < limit, f"request {victim.id!r} is preempted too often"
        victim.num_preemptions += 1
        self.num_preemptions += 1

    def release(self, request: Request, reason: FinishReason) -> None:
        """The one way out, for every ending."""
        assert request.state is not RequestState.FINISHED, f"request {request.id!r} ended before"
        del self.requests[request.id]
        if request.state is RequestState.RUNNING:
            self.running.remove(request)
            self._vacate(request)
        else:
            self.waiting.remove(request)
        while request.tokens[-1] == PENDING:
            request.tokens.pop()
        request.state = RequestState.FINISHED
        request.finish = reason

    def check(self) -> None:
        """Assert order of age, states and seats."""
        in_flight = [*self.running, *self.waiting]
        assert list(self.requests.values()) == in_flight, "running and waiting requests are not in order of age"
        assert sum(not request.has_all_tokens for request in self.running) <= self._config.max_rows
        seats = sorted([*self.seats, *(request.seat for request in self.running)])
        assert seats == list(range(self._config.num_seats)), f"seats are lost or taken twice: {seats}"
        for request in in_flight:
            assert self.requests[request.id] is request
            assert request.num_preemptions <= self._config.max_preemptions
            assert request.num_output <= request.max_tokens
            assert not request.has_all_tokens or request.tokens[-1] == PENDING, f"{request.id!r} has all its tokens"
        for request in self.running:
            assert request.state is RequestState.RUNNING
            assert 0 <= request.num_computed < request.num_tokens
            assert len(request.block_ids) == self._cache.num_groups
            assert len(request.block_ids[0]) <= self._cache.blocks_for(longest_life(request))
        for request in self.waiting:
            assert request.state is RequestState.WAITING
            assert request.seat < 0
            assert request.num_computed == 0
            assert not request.block_ids, f"request {request.id!r} waits, but holds blocks"

    def _vacate(self, request: Request) -> None:
        self._cache.release(request)
        self.seats.append(request.seat)
        request.seat = -1
