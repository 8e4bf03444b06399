"""Guesses of a request's next tokens as rows of a step. [host half: no jax]

A guess is a row of one token behind the row of its request's latest one: its keys and values are written beside those
of the other rows before any row looks at them, so what it draws is what the request would draw there if the guess is
right. It draws by its own place, so tokens and their distribution are those of steps without guesses.

Guesses never cost another request anything that counts: they preempt nobody, and take blocks only where every running
request could still have one more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence

from jaxpaged.buckets import BucketTable
from jaxpaged.kvcache import KVCache
from jaxpaged.limits import SchedulerConfig
from jaxpaged.plan import RowPlan, StepPlan
from jaxpaged.request import Request
from jaxpaged.roster import Roster
from jaxpaged.speculation.speculator import Charge, Speculator


class Drafting:
    """Adds drafted rows to steps. in_flight: the plans that were launched, not committed, as their owner keeps them."""

    def __init__(
        self,
        config: SchedulerConfig,
        roster: Roster,
        cache: KVCache,
        in_flight: Collection[StepPlan],
        speculator: Speculator,
        *,
        clock: Callable[[], float],
    ) -> None:
        self.speculator = speculator
        self._config = config
        self._roster = roster
        self._cache = cache
        self._in_flight = in_flight
        self._clock = clock
        # of each step in flight, whether none was before it, and whether it has guesses
        self._noted: deque[tuple[bool, bool]] = deque()
        self._committed_s = clock()  # the latest step
        self._drawing_s = 0.0  # of a draft model, up to then

    def needs_commit(self, buckets: BucketTable) -> bool:
        """Whether the steps in flight must be committed before the next one is planned, or had better be."""
        if not self._in_flight:
            return False
        if self.verifies:
            return True  # how far their requests are is not known
        if self._roster.waiting:
            return False  # who is admitted next has the rows
        running = [request for request in self._roster.running if not request.rests]
        requests = [request for request in running if request.num_uncomputed == 1 and _goes_on_alone(request)]
        if len(requests) < len(running):
            return False  # prompts and forks take the rest of the step
        room = min(self._config.max_rows, self._config.max_step_tokens) - self._roster.num_claims
        return self.speculator.worth_waiting(requests, room, self._charge(buckets, len(requests)))

    @property
    def verifies(self) -> bool:
        """Whether a step in flight has guesses."""
        return any(guesses for _, guesses in self._noted)

    def launched(self, plan: StepPlan) -> None:
        """Note that a step is about to be on its way."""
        self._noted.append((not self._in_flight, plan.num_drafted > 0))

    def committed(self, plan: StepPlan) -> None:
        """Note that the results of the oldest step are there: what a step takes goes from those of the one before."""
        (waited, _), now = self._noted.popleft(), self._clock()
        drawing_s = self.speculator.drawing_s
        if plan.bucket.is_decode:
            rows = plan.bucket.rows if self.speculator.pads else len(plan.rows)
            seconds = now - self._committed_s - (drawing_s - self._drawing_s)
            self.speculator.costs.note(rows, seconds, waited=waited)
        self._committed_s, self._drawing_s = now, drawing_s

    def add(self, rows: Sequence[RowPlan], buckets: BucketTable) -> list[RowPlan]:
        """The rows of a step, with drafted ones behind those that they follow; none beside rows without a token, which
        draw where others do."""
        if self._in_flight or len(rows) >= self._config.max_rows or not all(row.length for row in rows):
            return list(rows)
        single = [row for row in rows if row.length == 1 and row.samples and _goes_on_alone(row.request)]
        if not single:
            return list(rows)
        num_tokens, num_rows = sum(row.length for row in rows), len(rows)
        room = min(self._config.max_rows - num_rows, self._config.max_step_tokens - num_tokens)
        if num_tokens == num_rows:
            charge = self._charge(buckets, num_rows)
        else:  # beside prompts, only what would be padding
            bucket = buckets.fit(num_tokens, num_rows, decode=False)
            room = min(room, bucket.tokens - num_tokens, bucket.rows - num_rows)
            charge = self._charge(buckets, None if self.speculator.pads else num_rows)
        chosen = self.speculator.choose([row.request for row in single], room, charge, self._reach)
        guesses = {id(row): tokens for row, tokens in zip(single, chosen, strict=True) if tokens}
        found: list[RowPlan] = []
        for row in rows:
            found.append(row)
            if tokens := guesses.get(id(row)):
                tokens = tokens[: self._reach(row.request, len(tokens))]
                found += [RowPlan.drafted(row, tokens[: i + 1]) for i in range(len(tokens))]
        return found

    def _charge(self, buckets: BucketTable, num_rows: int | None) -> Charge:
        """For a step of so many rows, each of one token; None: for one whose bucket stays as it is."""
        if num_rows is None:
            return lambda _: buckets.max_rows
        if not self.speculator.pads:
            return lambda drafted: num_rows + drafted
        return lambda drafted: buckets.fit(num_rows + drafted, num_rows + drafted, decode=True).rows

    def _reach(self, request: Request, count: int) -> int:
        """How many of `count` guesses have a block to go to; takes the blocks."""
        cache = self._cache
        cache.retire(request)
        end = request.num_tokens + count
        more = cache.blocks_for(end) - len(request.block_ids[0])
        if more <= 0:
            return count
        spare = len(self._roster.running) * cache.num_groups
        if cache.pool.can_allocate(more * cache.num_groups + spare):
            cache.grow(request, end)
            return count
        return max(0, len(request.block_ids[0]) * cache.block_size - request.num_tokens)


def _goes_on_alone(request: Request) -> bool:
    """Whether what it draws is its next token: no other request forks from it now, and it is no beam, which goes on
    with a token that is chosen."""
    return not request.followers and not request.held
