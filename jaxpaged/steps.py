"""Steps on their way: planned, packed, launched, committed, in this order and with one of them ahead.

Owns the steps in flight and when each part of one happens. Policy is the scheduler's, arithmetic is the runner's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxpaged.batch import Packer
from jaxpaged.masks import waits
from jaxpaged.metrics import EngineMetrics
from jaxpaged.plan import StepPlan
from jaxpaged.request import TokenEvent
from jaxpaged.runner import ModelRunner, StepResult
from jaxpaged.scheduler import Scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A launched step."""

    plan: StepPlan
    result: StepResult


class Steps:
    """Takes an engine's steps one after the other. Not thread-safe.

    count: told of each committed step, and of what it led to.
    """

    def __init__(
        self,
        runner: ModelRunner,
        packer: Packer,
        *,
        metrics: EngineMetrics,
        clock: Callable[[], float],
        count: Callable[[StepPlan, Sequence[TokenEvent]], None],
    ) -> None:
        self.in_flight: deque[Step] = deque()  # oldest first
        self._runner = runner
        self._packer = packer
        self._metrics = metrics
        self._clock = clock
        self._count = count

    def advance(self, scheduler: Scheduler, *, overlapped: bool) -> list[TokenEvent]:
        """Launch the next step and commit one: the one before, where `overlapped`. Interrupted, it can be called again.

        A step is committed first where it verifies guesses, or where the next one is likely to be worth some.
        """
        if scheduler.needs_commit():  # guesses go on from tokens that are known
            events = self._commit(scheduler)
            self._launch(scheduler)
            return events
        launched = len(self.in_flight) < 2 and self._launch(scheduler)  # two: an earlier commit was interrupted
        keep = 1 if launched and overlapped else 0
        return self._commit(scheduler) if len(self.in_flight) > keep else []

    def drop(self, scheduler: Scheduler) -> None:
        """Commit what is in flight for nobody: every request has ended."""
        while self.in_flight:
            plan = self.in_flight.popleft().plan
            scheduler.commit(plan, [0] * len(plan.rows))

    def _launch(self, scheduler: Scheduler) -> bool:
        """Send the next step on its way; False where nothing can be computed before a commit."""
        metrics = self._metrics
        started = self._clock()
        plan = scheduler.plan()
        planned = self._clock()
        metrics.plan_s += planned - started
        if plan is None:
            return False
        if self.in_flight and any(map(waits, plan.rows)):
            return False  # what its masks depend on is known after the commit, and this plan is made anew then
        inputs = self._packer.pack(plan, self._runner.layout(plan.bucket))
        packed = self._clock()
        metrics.pack_s += packed - planned
        result = self._runner.execute(inputs, plan.bucket)
        scheduler.launch(plan)
        self.in_flight.append(Step(plan=plan, result=result))
        metrics.execute_s += self._clock() - packed
        return True

    def _commit(self, scheduler: Scheduler) -> list[TokenEvent]:
        """Take in the oldest step in flight. Interrupted while it waits for the device, it can be called again."""
        started = self._clock()
        plan, result = self.in_flight[0].plan, self.in_flight[0].result
        rows = len(plan.rows)
        tokens, finite = result.tokens()[:rows], result.finite()[:rows]
        logprobs = result.logprobs([row.request.params if row.samples else None for row in plan.rows])
        prompt_logprobs = result.prompt_logprobs([row.request.params.prompt_logprobs for row in plan.rows])
        arrived = self._clock()
        self.in_flight.popleft()
        events = scheduler.commit(plan, tokens, finite=finite, logprobs=logprobs, prompt_logprobs=prompt_logprobs)
        self._count(plan, events)
        metrics = self._metrics
        metrics.wait_s += arrived - started
        metrics.commit_s += self._clock() - arrived
        return events
