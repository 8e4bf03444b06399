"""Who is here: every request in flight, in order of age, running or waiting, and the seats. [host half: no jax]

Owns the ways of a request: into the queue, onto a seat, back to the queue's front (preemption), and out, which is one
way for every ending. Running requests are always older than waiting ones: admission is first come, first served, and
only the youngest running one is ever preempted. Which request goes which way, and when, is the planner's.

Requests of one prompt come as a leader and its followers, which are of its age. The leader alone is queued, admitted
and preempted; once it runs a seat, and with it a row, is kept for each follower as soon as there is one. When it draws
its first token those run as well, as forks of it; one without a seat goes to the front of the queue. From then on all
are requests like any other. A leader that ends before leaves its place, and what it had computed, to a follower.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from jaxpaged.kvcache import KVCache, PrefixMatch
from jaxpaged.limits import SchedulerConfig, longest_life
from jaxpaged.request import PENDING, FinishReason, Request, RequestState


class Roster:
    """The requests in flight. What waits holds no block and no seat; what runs holds both; what follows, no block."""

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

    @property
    def num_claims(self) -> int:
        """Rows that may be wanted in a step: those of running requests, and those kept for followers."""
        followers = sum(follower.seat >= 0 for request in self.running for follower in request.followers)
        return followers + sum(not request.has_all_tokens for request in self.running)

    @property
    def num_following(self) -> int:
        """Requests whose prompt another one computes."""
        return len(self.requests) - len(self.running) - len(self.waiting)

    def queue(self, request: Request, followers: Sequence[Request] = ()) -> None:
        """Put a new request at the end of the queue. followers: new, too, and of the same prompt."""
        for new in (request, *followers):
            assert new.id not in self.requests
            assert new.state is RequestState.WAITING, f"request {new.id!r} was submitted before"
            assert not new.block_ids
            assert new.num_computed == 0
            assert (new.prompt, new.salt, new.num_to_score) == (request.prompt, request.salt, request.num_to_score)
            self.requests[new.id] = new
        self.waiting.append(request)
        request.followers = [*followers]
        for follower in followers:
            follower.leader, follower.state = request, RequestState.FOLLOWING

    def seat_followers(self) -> None:
        """Keep seats for followers of running requests, the oldest first, as far as there are seats and rows."""
        if not self.num_following:
            return
        free = min(len(self.seats), self._config.max_rows - self.num_claims)
        unseated = [f for request in self.running for f in request.followers if f.seat < 0]
        for follower in unseated[: max(0, free)]:
            follower.seat = self.seats.pop()

    def fork(self, leader: Request) -> list[Request]:
        """Let the followers of a request run that draws its first token now, those with a seat; returns them."""
        assert leader.num_computed == len(leader.prompt), f"request {leader.id!r} has not computed its prompt"
        seated, unseated = ([f for f in leader.followers if (f.seat >= 0) == there] for there in (True, False))
        for follower in leader.followers:
            follower.leader, follower.state = None, RequestState.WAITING
        for follower in seated:
            follower.state = RequestState.RUNNING
            follower.admitted_s, follower.num_cached = leader.admitted_s, leader.num_cached
            follower.num_scored, follower.prompt_logprobs = leader.num_scored, leader.prompt_logprobs
            self._cache.fork(leader, follower)
        place = self.running.index(leader) + 1
        self.running[place:place] = seated
        self.waiting.extendleft(reversed(unseated))
        leader.followers = []
        return seated

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
        for follower in victim.followers:
            self._unseat(follower)
        victim.state = RequestState.WAITING
        self.waiting.appendleft(victim)
        if victim.paused:
            self.forget_draw(victim)
        if victim.has_all_tokens and not victim.held:
            return  # it ends with the step in flight, nothing is computed again
        limit = self._config.max_preemptions
        assert victim.num_preemptions < limit, f"request {victim.id!r} is preempted too often"
        victim.num_preemptions += 1
        self.num_preemptions += 1

    def forget_draw(self, request: Request) -> None:
        """Take away the token that a held request has drawn and that is not chosen yet: it draws once more."""
        assert request.held
        request.tokens.pop()
        request.paused = False

    def rebase(self, request: Request, parent: Request, token: int) -> None:
        """Let a paused request go on as a fork of another one, and with this token in place of the one drawn."""
        assert request.paused
        assert parent.paused
        if request is not parent:
            self._cache.release(request)
            request.tokens = [*parent.tokens]
            self._cache.fork(parent, request)
        request.tokens[-1] = token

    def release(self, request: Request, reason: FinishReason) -> None:
        """The one way out, for every ending."""
        assert request.state is not RequestState.FINISHED, f"request {request.id!r} ended before"
        del self.requests[request.id]
        if request.followers:
            self._hand_over(request)
        elif request.state is RequestState.RUNNING:
            self.running.remove(request)
            self._vacate(request)
        elif request.leader is not None:
            request.leader.followers.remove(request)
            request.leader = None
            self._unseat(request)
        else:
            self.waiting.remove(request)
        while request.tokens[-1] == PENDING:
            request.tokens.pop()
        request.state = RequestState.FINISHED
        request.finish = reason

    def check(self) -> None:
        """Assert order of age, states and seats."""
        in_flight = [follower for r in (*self.running, *self.waiting) for follower in (r, *r.followers)]
        assert list(self.requests.values()) == in_flight, "running and waiting requests are not in order of age"
        assert self.num_claims <= self._config.max_rows
        kept = [follower.seat for request in self.running for follower in request.followers if follower.seat >= 0]
        seats = sorted([*self.seats, *kept, *(request.seat for request in self.running)])
        assert seats == list(range(self._config.num_seats)), f"seats are lost or taken twice: {seats}"
        for request in in_flight:
            assert self.requests[request.id] is request
            assert request.num_preemptions <= self._config.max_preemptions
            assert request.num_output <= request.max_tokens
            ends = request.tokens[-1] == PENDING or request.paused
            assert not request.has_all_tokens or ends, f"{request.id!r} has all its tokens"
            assert not request.paused or (request.held and request.state is RequestState.RUNNING)
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
            assert all(follower.seat < 0 for follower in request.followers)
        for leader in (*self.running, *self.waiting):
            assert leader.leader is None
            assert not leader.followers or leader.num_output == 0, f"request {leader.id!r} is followed for too long"
            for follower in leader.followers:
                assert (follower.leader, follower.state) == (leader, RequestState.FOLLOWING)
                assert follower.num_computed == follower.num_output == 0
                assert not follower.block_ids
                assert not follower.followers

    def _hand_over(self, request: Request) -> None:
        """Put the first follower of a request that ends into its place, with all that is computed."""
        heir, *others = request.followers
        request.followers = []
        self._unseat(heir)
        heir.leader, heir.followers, heir.state = None, others, request.state
        for other in others:
            other.leader = heir
        heir.num_preemptions = request.num_preemptions
        heir.admitted_s, heir.num_cached = request.admitted_s, request.num_cached
        if request.state is RequestState.WAITING:
            self.waiting[self.waiting.index(request)] = heir
            return
        request.heir = heir
        self.running[self.running.index(request)] = heir
        heir.seat, request.seat = request.seat, -1
        heir.block_ids, heir.table_starts, heir.block_keys = (
            [*request.block_ids],
            request.table_starts,
            request.block_keys,
        )
        heir.num_computed, heir.num_committed = request.num_computed, request.num_committed
        heir.num_scored, heir.prompt_logprobs = request.num_scored, request.prompt_logprobs
        request.block_ids, request.table_starts = [], []
        request.num_computed = request.num_committed = 0

    def _unseat(self, follower: Request) -> None:
        if follower.seat >= 0:
            self.seats.append(follower.seat)
            follower.seat = -1

    def _vacate(self, request: Request) -> None:
        self._cache.release(request)
        self.seats.append(request.seat)
        request.seat = -1
