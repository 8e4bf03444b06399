"""Which rows the next step has: whose tokens, and how many. [host half: no jax]

Running requests come first, from the oldest on, each with its next token or the next chunk of its prompt; what is left
of the step goes to the queue, several prompts at once so that a long one does not block short ones. A running request
that lacks blocks preempts the youngest.

Why each step makes progress: requests are served from the oldest on. The oldest may preempt all others, and it fits
into the pool alone (`check_request` sees to that), so it gets at least one token in every step and ends.
Why preemptions are bounded: a request preempted `max_preemptions` times is admitted again only when its longest life
and those of all running requests, all older, fit together; from then on none of them can lack a block that would
have to come from it. Both count blocks of all KV groups, since they have one pool (`KVDemand`: of a group with a window
a life takes the window and a chunk); what is held beyond that is kept for the prefix cache alone, and goes first.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from jaxpaged.kvcache import KVCache, PrefixMatch
from jaxpaged.limits import SchedulerConfig, longest_life, prompt_tokens
from jaxpaged.plan import RowPlan, StepPlan
from jaxpaged.request import PENDING, Request
from jaxpaged.roster import Roster


class Planner:
    """Chooses the rows of steps; admits and preempts to that end. in_flight: the plans that were launched, not
    committed, as their owner keeps them."""

    def __init__(
        self, config: SchedulerConfig, roster: Roster, cache: KVCache, in_flight: Collection[StepPlan]
    ) -> None:
        self._config = config
        self._roster = roster
        self._cache = cache
        self._in_flight = in_flight

    def rows(self) -> list[RowPlan]:
        """The rows of the next step, by age, and then the followers'; none where nothing can be computed before a
        commit."""
        rows, spare = self._running()
        self._roster.seat_followers()  # they are older than the queue
        if self._roster.waiting and spare:
            self._admissions(rows)
        if not self._roster.num_following:
            return rows
        followers = (f for row in rows if row.samples for f in row.request.followers if f.seat >= 0)
        return [*rows, *map(RowPlan.following, followers)]

    def _running(self) -> tuple[list[RowPlan], bool]:
        """A row for every running request, oldest first, as far as tokens and blocks go.

        Also whether that leaves room for others: whoever runs has the first claim, so none is admitted beside one that
        got nothing, or in place of a victim.
        """
        rows: list[RowPlan] = []
        budget, chunked, spare, preemptions = self._config.max_step_tokens, False, True, self._roster.num_preemptions
        i = 0
        while i < len(self._roster.running):  # the list may get shorter at its end meanwhile
            request = self._roster.running[i]
            i += 1
            if request.rests:
                continue  # it ends with the step in flight, or waits for other beams
            uncomputed = request.num_uncomputed
            if uncomputed == 1:
                count = min(1, budget)
            else:
                kept = sum(r.num_uncomputed == 1 and not r.rests for r in self._roster.running[i:])
                others = self._prompt_tokens_after(i) if uncomputed > self._config.fair_chunk else 0
                count = self._config.chunk(request, request.num_computed, budget - kept, others)
                if count == 0 and not chunked:
                    # one prompt goes on in every step, if need be at the cost of younger rows
                    count = self._config.chunk(request, request.num_computed, budget, others)
            if count and self._make_room(request, request.num_computed + count):
                chunked |= uncomputed > 1
                budget -= count
                rows.append(RowPlan.of(request, count))
            else:
                spare = False
        return rows, spare and self._roster.num_preemptions == preemptions

    def _admissions(self, rows: list[RowPlan]) -> None:
        """Admit requests from the front of the queue while tokens, rows and blocks last; appends their rows."""
        budget = self._config.max_step_tokens - sum(row.length for row in rows)
        promised, claims = self._promised(), self._roster.num_claims
        while self._roster.waiting and budget > 0 and claims < self._config.max_rows and self._roster.seats:
            request = self._roster.waiting[0]
            if self._is_in_flight(request):
                break
            match = self._cache.match(request)
            if not self._can_admit(request, match, promised):
                break
            start = match.num_blocks * self._cache.block_size
            others = 0
            if request.num_tokens - start > self._config.fair_chunk:
                others = self._queue_tokens(1, promised + self._cache.missing(match, request.num_tokens))
            count = self._config.chunk(request, start, budget, others)
            if count == 0:
                break
            self._roster.admit(request, match)
            self._cache.grow(request, start + count)
            self._roster.seat_followers()
            promised += self._lacks(request)
            claims += 1 + sum(follower.seat >= 0 for follower in request.followers)
            budget -= count
            rows.append(RowPlan.of(request, count))

    def _prompt_tokens_after(self, i: int) -> int:
        """Tokens that prompts behind running request i could use in this step."""
        limit = self._config.max_step_tokens
        tokens = prompt_tokens(self._roster.running[i:], limit)
        return tokens if tokens >= limit else tokens + self._queue_tokens(0, self._promised())

    def _queue_tokens(self, first: int, promised: int) -> int:
        """Tokens that waiting prompts from place `first` on could use in this step; none where that one must wait."""
        last = min(len(self._roster.waiting), self._config.max_rows - len(self._roster.running))
        if first >= last:
            return 0
        request = self._roster.waiting[first]
        if self._is_in_flight(request) or not self._can_admit(request, self._cache.match(request), promised):
            return 0
        return prompt_tokens(islice(self._roster.waiting, first, last), self._config.max_step_tokens)

    def _is_in_flight(self, request: Request) -> bool:
        """Whether a waiting request was preempted while a step computed for it, whose results are still to come: they
        must not be taken for those of what it computes anew."""
        rows = (row for plan in self._in_flight for row in plan.rows) if request.num_preemptions else ()
        flying = (row.request.last_heir for row in rows)
        return request.tokens[-1] == PENDING or any(other is request for other in flying)

    def _promised(self) -> int:
        """Blocks that running requests still need for the tokens they have, and their followers for the next one."""
        return sum(map(self._lacks, self._roster.running))

    def _lacks(self, request: Request) -> int:
        forks = len(request.followers) * self._cache.num_groups
        return forks + self._cache.lacks(request, request.num_tokens)

    def _can_admit(self, request: Request, match: PrefixMatch, promised: int) -> bool:
        """Whether all its tokens fit beside what running requests were promised. The more often it was preempted, the
        more room to grow must be left for them, so that it is not preempted again at once."""
        # who waits for other beams does not grow meanwhile, and ends only with them, of which this one may be
        running = [other for other in self._roster.running if not other.paused]
        if running and request.num_preemptions >= self._config.max_preemptions:
            blocks = self._cache.demand.blocks
            older = sum(blocks(longest_life(other)) * (1 + len(other.followers)) for other in self._roster.running)
            return older + blocks(longest_life(request)) <= self._cache.max_blocks
        spare = promised + request.num_preemptions * len(running) * self._cache.num_groups
        if running:
            spare += len(request.followers) * self._cache.num_groups
        return self._cache.can_admit(match, request.num_tokens, spare=spare)

    def _make_room(self, request: Request, num_tokens: int) -> bool:
        """Let a running request hold `num_tokens` tokens, preempting younger ones; False: it must wait."""
        cache = self._cache
        own = not cache.pool.num_open or not cache.shared_tails(request)  # asked of every row of every step
        if own and num_tokens <= len(request.block_ids[0]) * cache.block_size:
            return True
        while not self._cache.make_room(request, num_tokens, self._roster.running):
            victim = self._roster.running[-1]
            if victim is request:
                # keeps its blocks: older requests take them if they must, and else it need not compute them again
                assert len(self._roster.running) > 1, f"request {request.id!r} does not fit alone"
                return False
            self._roster.preempt(victim)
        self._cache.grow(request, num_tokens)
        return True
