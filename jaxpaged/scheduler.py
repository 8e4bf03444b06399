"""Which tokens are computed in the next step, and what became of them. [host half: no jax]

Owns the life of every request from `submit` to its end: `roster.py` knows who is here, `planner.py` says which rows a
step has, `kvcache.py` holds the blocks; here they meet.

A step goes through three calls: `plan` decides, `launch` says that it is on its way, `commit` takes in its results. The
next step may be planned before the results of a launched one are there: a token that it draws is `PENDING` until then,
and only the device knows it. Steps run in order, so blocks given up by then may be written by later steps only.

A step may verify guesses (`drafting.py`): drafted rows stand behind their request's own. One counts if its guess is
what the row before it drew; what it drew is then the next token. The others leave nothing behind but keys and values in
places that are written again before they are read. After such a step the next one is planned once it is committed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from jaxpaged.block_listener import BlockListener
from jaxpaged.blockmap import BlockMap
from jaxpaged.buckets import BucketTable
from jaxpaged.drafting import Drafting
from jaxpaged.errors import CapacityError, ConfigError, ParameterError, RequestError
from jaxpaged.events import dead_end, failure, token_event
from jaxpaged.kv_pool_spec import KVPoolSpec
from jaxpaged.kvcache import KVCache
from jaxpaged.ledger import KVLedger
from jaxpaged.limits import SchedulerConfig, check_request, longest_life
from jaxpaged.plan import RowPlan, StepPlan
from jaxpaged.planner import Planner
from jaxpaged.prefix import PrefixListener
from jaxpaged.request import PENDING, FinishReason, Logprob, Request, RequestState, TokenEvent
from jaxpaged.roster import Roster
from jaxpaged.speculation.speculator import Speculator


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
        block_listener: BlockListener | None = None,
        speculator: Speculator | None = None,
    ) -> None:
        for name, value, limit in (
            ("max_rows", config.max_rows, buckets.max_rows),
            ("max_step_tokens", config.max_step_tokens, buckets.max_step_tokens),
        ):
            if value > limit:
                raise ConfigError(name=name, value=value, limit=f"the buckets end at {limit}")
        self.config = config
        self.buckets = buckets
        self._cache = KVCache(
            pool,
            chunk=config.max_step_tokens,
            prefix_caching=config.prefix_caching,
            dtype=config.kv_dtype,
            listener=listener,
            block_listener=block_listener,
        )
        self.roster = Roster(config, self._cache, clock=clock)
        self._plan: StepPlan | None = None
        self._in_flight: deque[StepPlan] = deque()  # launched, not committed; oldest first
        self._void: deque[set[int]] = deque()  # of each, the rows that were for nobody any more when it was launched
        self._planner = Planner(config, self.roster, self._cache, self._in_flight)
        self.speculator = speculator
        self._drafting = speculator and Drafting(
            config, self.roster, self._cache, self._in_flight, speculator, clock=clock
        )

    @property
    def num_waiting(self) -> int:
        return len(self.roster.waiting)

    @property
    def num_running(self) -> int:
        return len(self.roster.running)

    @property
    def has_work(self) -> bool:
        return bool(self.roster.requests)

    @property
    def longest_wait_s(self) -> float:
        """Seconds since the arrival of the first request in the queue; 0 where none waits."""
        return self.roster.longest_wait_s

    @property
    def num_preemptions(self) -> int:
        return self.roster.num_preemptions

    @property
    def num_prompt_tokens(self) -> int:
        """Of admitted requests, once each."""
        return self.roster.num_prompt_tokens

    @property
    def num_cached_tokens(self) -> int:
        """Of these, served by the prefix cache."""
        return self.roster.num_cached_tokens

    def __contains__(self, request_id: str) -> bool:
        return request_id in self.roster.requests

    def submit(self, request: Request, followers: Sequence[Request] = ()) -> None:
        """Put a request at the end of the queue. followers: more requests of its prompt, which is computed and held
        once for all of them; those for which a step has no row are requests of their own behind it.

        Raises what `vet` raises; nothing changes then.
        """
        self.vet(request, followers)
        # a fork has no room for its whole life when it begins, as one has that may never be preempted
        most = self.config.max_rows - 1 if self.config.max_preemptions else 0
        self.roster.queue(request, followers[:most])
        for other in followers[most:]:
            self.roster.queue(other)

    def vet(self, request: Request, followers: Sequence[Request] = ()) -> None:
        """Raise what `submit` would: RequestError for an id in flight, and what `check_request` raises. What passes can
        be submitted later, too, as long as nobody else takes its ids."""
        cache, longest, ids = self._cache, self.config.max_model_len, set(self.roster.requests)
        for new in (request, *followers):
            if new.id in ids:
                raise RequestError(name="request id", value=new.id, limit="a request with this id is in flight")
            ids.add(new.id)
            check_request(new, max_model_len=longest, demand=cache.demand, max_blocks=cache.max_blocks)
        if request.held:
            self._check_beams(request, 1 + len(followers))

    def _check_beams(self, request: Request, count: int) -> None:
        """Raise what is wrong with held requests, which wait for each other: all of them must fit at once."""
        if request.params.structured_outputs is not None:
            limit = "a beam search goes by likelihood alone, and keeps to no form"
            raise ParameterError(name="structured_outputs", value="a form", limit=limit, fix="Leave out one of the two")
        if count > self.config.max_rows:
            raise ParameterError(name="beam_width", value=count, limit=f"a step has {self.config.max_rows} rows")
        needed, most = count * self._cache.demand.blocks(longest_life(request)), self._cache.max_blocks
        if needed > most:
            raise CapacityError(
                name="beams x (prompt and max_tokens)",
                value=f"{count} x {len(request.prompt) + request.max_tokens}",
                limit=f"so many tokens may need {needed} KV blocks, and the pool has {most}",
                fix="Ask for fewer beams or tokens, or enlarge the KV cache",
            )

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> bool:
        """End a request now, in any state; its blocks are free at return. False where it is not in flight."""
        return self.finish(request_id, reason) is not None

    def finish(
        self,
        request_id: str,
        reason: FinishReason,
        stop_reason: int | str | None = None,
        *,
        error: str | None = None,
    ) -> TokenEvent | None:
        """End a request for a reason seen outside, such as a stop string. None where it is not in flight."""
        request = self.roster.requests.get(request_id)
        if request is None:
            return None
        self._release(request, reason)
        return TokenEvent(request_id=request_id, token=None, finish=reason, stop_reason=stop_reason, error=error)

    @property
    def drawing_s(self) -> float:
        """Seconds that a draft model took since the start, within `plan`; 0 where there is none."""
        return 0.0 if self.speculator is None else self.speculator.drawing_s

    def reset_prefix_cache(self) -> None:
        """Forget all cached prefixes; requests in flight go on undisturbed."""
        self._cache.forget_prefixes()

    def needs_commit(self) -> bool:
        """Whether the steps in flight must be committed before the next one is planned, or had better be: because of
        guesses, in them or to come. Without a speculator never."""
        return self._drafting is not None and self._drafting.needs_commit(self.buckets)

    def plan(self) -> StepPlan | None:
        """Choose the next step's tokens, at least one; None where there is nothing to compute before a commit."""
        assert self._drafting is None or not self._drafting.verifies, "guesses are in flight: see needs_commit"
        self._plan = None
        rows = self._planner.rows()
        if not rows:
            chosen = not any(request.paused for request in self.roster.running)  # else it is on `choose`
            in_flight = self._in_flight or not (chosen and self.roster.requests)
            assert in_flight, "work is left, none in flight, and nothing is scheduled"
            return None
        if self._drafting is not None:
            rows = self._drafting.add(rows, self.buckets)
        lengths = [row.length for row in rows]
        longest, num_tokens = max(lengths), sum(lengths)
        if longest > 1:  # else they stand so already; stable: one-token rows first, each kind by age
            rows.sort(key=lambda row: row.length > 1 if row.length else 2)
        assert num_tokens <= self.config.max_step_tokens
        bucket = self.buckets.fit(num_tokens, len(rows), decode=longest == 1)
        self._plan = StepPlan(rows=tuple(rows), bucket=bucket, copies=self._cache.copies)
        return self._plan

    def launch(self, plan: StepPlan) -> None:
        """Note that the latest plan is on its way: what it computes counts as computed, what it draws as tokens."""
        assert plan is self._plan, "only the latest plan can be launched, and once"
        self._plan = None
        if self._drafting is not None:
            self._drafting.launched(plan)
        self._in_flight.append(plan)
        self._cache.copied()
        void: set[int] = set()
        self._void.append(void)
        forked: list[Request] = []
        for i, (request, start, count, samples, draft) in enumerate(plan.rows):
            # since the plan it may have ended, or the one that it follows
            if request.state is not RequestState.RUNNING or (count == 0 and request not in forked):
                void.add(i)
                continue
            if draft:
                continue
            assert request.num_computed == start, f"request {request.id!r} moved since the plan"
            request.num_computed = end = start + count
            if request.params.prompt_logprobs is not None:
                request.num_scored = max(request.num_scored, min(end, request.num_to_score))
            if samples:
                if request.followers:
                    forked += self.roster.fork(request)
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
        not finite has spoilt the KV of the request and its followers. prompt_logprobs: of the prompt tokens that the
        step scored. Rows of requests that ended meanwhile are skipped: a token drawn after the one that ended its
        request is dropped. So are drafted rows whose guess is wrong; of the others each gives its request one event
        more. A negative token says that the row's constraints leave none.
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
        void = self._void.popleft()
        if self._drafting is not None:
            self._drafting.committed(plan)
        events: list[TokenEvent] = []
        for i, row in enumerate(plan.rows):
            planned, start, count, samples, draft = row
            if void and i in void:
                continue
            request, end = planned if planned.heir is None else planned.last_heir, start + count
            if prompt_logprobs is not None:
                request.prompt_logprobs += prompt_logprobs[i]  # of one that has ended, too: its forks are told the same
            if request.state is RequestState.FINISHED or (draft and not self._accept(row, tokens[i])):
                continue
            spoilt = finite is not None and not finite[i]
            if spoilt or (samples and tokens[i] < 0):
                # a prompt that is not finite is no better for those who wait for it
                for one in (*request.followers, request) if spoilt else (request,):
                    self._release(one, FinishReason.ERROR)
                    events.append(failure(one, end - 1) if spoilt else dead_end(one, end))
                continue
            if samples:
                assert request.tokens[end] == PENDING, f"request {request.id!r} has its token at {end} already"
                request.tokens[end] = tokens[i]
            if request.state is RequestState.RUNNING:  # else it was preempted since, and has no blocks
                self._cache.publish(request, start, end)
            if samples and request.held:
                if request.state is RequestState.RUNNING:
                    request.paused = True
                    events.append(TokenEvent(request.id, tokens[i], logprobs=logprobs[i] if logprobs else None))
                else:
                    self.roster.forget_draw(request)
            elif samples:
                event = token_event(request, end, logprobs[i] if logprobs is not None else None)
                if event.finish is not None:
                    self._release(request, event.finish)
                events.append(event)
        return events

    def choose(self, picks: Sequence[tuple[Request, Request, int]]) -> None:
        """Let held requests of one submission go on that have all drawn: each as the one that its pick names, and with
        the pick's token. Who goes on as itself does so in its own place; others of them rest on."""
        kept = {id(parent) for request, parent, _ in picks if request is parent}
        assert kept == {id(parent) for _, parent, _ in picks}, "a parent goes on in its own place"
        for request, parent, token in sorted(picks, key=lambda pick: pick[0] is pick[1]):  # forks before their parents
            self.roster.rebase(request, parent, token)
        for request, _, _ in picks:
            request.paused = False

    def _accept(self, row: RowPlan, token: int) -> bool:
        """Whether a drafted row's guess is what the row before it drew; its request then goes on by one token.

        token: what it drew itself. Where its constraints leave none, which may mean that the answer is whole, the guess
        is computed once more as what it is by then, the request's last token.
        """
        request = row.request
        assert request.state is RequestState.RUNNING, "nothing is planned while guesses are in flight"
        assert self.speculator is not None
        right = request.num_tokens == row.start + 1 and request.tokens[row.start] == row.draft[-1]
        accepted = right and token >= 0
        self.speculator.verified(len(row.draft) - 1, accepted=accepted)
        if accepted:
            request.num_computed = row.start + 1
            request.tokens.append(PENDING)
        return accepted

    def _release(self, request: Request, reason: FinishReason) -> None:
        self.roster.release(request, reason)
        if self.speculator is not None:
            self.speculator.ended(request)

    def ledger(self) -> KVLedger:
        """Classes of all slots of the pool; O(running requests)."""
        return KVLedger.of(self._cache, self.roster.running, max_model_len=self.config.max_model_len)

    def block_map(self) -> BlockMap:
        """Class and holder of every block; O(blocks)."""
        return BlockMap.of(self._cache, self.roster.running)

    def check(self) -> None:
        """Assert the invariants: age order, states, seats, and I-POOL with every reference count re-derived."""
        self.roster.check()
        self._cache.check(self.roster.running)
        ledger = self.ledger()
        assert ledger.total == self._cache.pool.num_blocks * self._cache.block_size, ledger


__all__ = ["KVLedger", "KVPoolSpec", "RowPlan", "Scheduler", "SchedulerConfig", "StepPlan"]
