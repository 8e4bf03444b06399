"""What the child tells of itself four times a second, even while a step hangs. [no jax]

The engine thread notes, the beat thread tells. They share plain numbers, tuples that are replaced as a whole, and a
deque that one fills and the other empties: no lock, and nothing that a hung step could hold.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from operator import attrgetter, sub
from typing import NamedTuple, Protocol

from jaxpaged.ledger import KVLedger
from jaxpaged.metrics import EngineMetrics
from jaxpaged.residency import BlockResidency
from jaxpaged.speculation.counts import SpeculationCounts
from jaxpaged_server.engine_process.outbox import Outbox
from jaxpaged_server.engine_process.wire import STEP_TOKEN_BOUNDS, Beat, StepRecord

BEAT_S = 0.25
_MAX_RECORDS = 64  # of one beat
_GENERATION = 512  # steps
_COUNTERS = attrgetter(
    *("step_tokens", "padded_tokens", "step_rows", "plan_s", "pack_s", "execute_s", "wait_s", "commit_s")
)


class Queue(Protocol):
    """What is asked of a `Scheduler`."""

    @property
    def num_running(self) -> int: ...
    @property
    def num_waiting(self) -> int: ...
    @property
    def longest_wait_s(self) -> float: ...
    def ledger(self) -> KVLedger: ...


class Engine(Protocol):
    """What is asked of an `LLMEngine`."""

    metrics: EngineMetrics
    ledger: KVLedger

    @property
    def scheduler(self) -> Queue: ...


class _Noted(NamedTuple):
    """The engine between two steps. oldest: when the queue's first request came, on the clock."""

    ledger: KVLedger
    running: int
    waiting: int
    oldest: float


class StepWatch:
    """Notes every step of an engine, and makes beats of that.

    max_step_tokens: of the largest step. residency: what the engine tells of its blocks, if it does.
    speculation: what became of its guesses, if it makes any.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_step_tokens: int,
        residency: BlockResidency | None = None,
        speculation: SpeculationCounts | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._engine, self._max_step_tokens, self._residency = engine, max_step_tokens, residency
        self._speculation = speculation
        self._clock, self._wall = clock, wall
        self._began: float | None = None  # of the step that runs now
        self._counted, self._num_steps = _COUNTERS(engine.metrics), engine.metrics.steps
        self._longest_s = self._longest_before_s = 0.0  # of this generation of steps, and of the one before
        self._age = 0
        self._largest = (0, 0, 0.0)  # tokens of the largest bucket seen, how many steps it had, their seconds
        self._records: deque[StepRecord] = deque(maxlen=_MAX_RECORDS)
        self._token_counts = [0] * (len(STEP_TOKEN_BOUNDS) + 1)
        self._noted = self._note(engine.ledger)

    # The engine thread.

    def begin(self) -> None:
        """A step begins."""
        self._began = self._clock()

    def end(self) -> None:
        """It has returned."""
        began, now = self._began, self._clock()
        assert began is not None, "a step ended that did not begin"
        self._began = None
        metrics = self._engine.metrics
        if metrics.steps > self._num_steps:  # else it was launched only
            self._record(now - began)
            self._num_steps = metrics.steps
        self._noted = self._note(self._engine.ledger)

    def rest(self) -> None:
        """There is nothing to step: note what commands have changed since the last step."""
        self._noted = self._note(self._engine.scheduler.ledger())

    def _record(self, took_s: float) -> None:
        counted = _COUNTERS(self._engine.metrics)
        tokens, padding, rows, *phases = map(sub, counted, self._counted)
        self._counted = counted
        self._records.append(StepRecord(self._wall(), tokens, padding, rows, *phases))
        self._token_counts[bisect_left(STEP_TOKEN_BOUNDS, tokens)] += 1
        size, count, total_s = self._largest
        if tokens + padding > size:
            size, count, total_s = tokens + padding, 0, 0.0
        if tokens + padding == size:
            self._largest = size, count + 1, total_s + took_s
        self._longest_s = max(self._longest_s, took_s)
        self._age += 1
        if self._age == _GENERATION:
            self._longest_before_s, self._longest_s, self._age = self._longest_s, 0.0, 0

    def _note(self, ledger: KVLedger) -> _Noted:
        queue = self._engine.scheduler
        return _Noted(ledger, queue.num_running, queue.num_waiting, self._clock() - queue.longest_wait_s)

    # The beat thread.

    def beat(self) -> Beat:
        """How it is now; each step is told once."""
        now, noted, began = self._clock(), self._noted, self._began
        size, count, total_s = self._largest
        return Beat(
            metrics=self._engine.metrics,
            ledger=noted.ledger,
            running=noted.running,
            waiting=noted.waiting,
            step_age_s=0.0 if began is None else now - began,
            oldest_wait_s=now - noted.oldest if noted.waiting else 0.0,
            longest_step_s=max(self._longest_s, self._longest_before_s),
            steps=[self._records.popleft() for _ in range(len(self._records))],
            full_step_s=total_s / count * max(1.0, self._max_step_tokens / size) if count else 0.0,
            step_token_counts=tuple(self._token_counts),
            residency=None if self._residency is None else self._residency.counts,
            accepted_at=() if self._speculation is None else tuple(self._speculation.accepted_at),
        )


def beat_for_ever(watch: StepWatch, outbox: Outbox, *, every_s: float = BEAT_S) -> None:
    """Send a beat again and again, but none to a front end that has not read what was sent before."""
    while True:
        if outbox.idle:
            outbox.put(watch.beat())
        time.sleep(every_s)
