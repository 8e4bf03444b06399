"""Steps on their way: planned, packed, launched, drawn, committed, in this order and with one of them ahead.

Owns the steps in flight and when each part of one happens. Policy is the scheduler's, arithmetic is the runner's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxpaged.batch import Packer
from jaxpaged.mask_filler import MaskFiller
from jaxpaged.masks import waits
from jaxpaged.metrics import EngineMetrics
from jaxpaged.plan import StepPlan
from jaxpaged.request import TokenEvent
from jaxpaged.runner import Forward, ModelRunner, StepResult
from jaxpaged.scheduler import Scheduler


@dataclass(slots=True, kw_only=True)
class Step:
    """A launched step.

    forward: None once its tokens are drawn, so that the device need not keep the logits. result: None until then.
    """

    plan: StepPlan
    forward: Forward | None
    result: StepResult | None = None


class Steps:
    """Takes an engine's steps one after the other. Not thread-safe.

    count: told of each committed step, and of what it led to.
    """

    def __init__(
        self,
        runner: ModelRunner,
        packer: Packer,
        masks: MaskFiller,
        *,
        metrics: EngineMetrics,
        clock: Callable[[], float],
        count: Callable[[StepPlan, Sequence[TokenEvent]], None],
    ) -> None:
        self.in_flight: deque[Step] = deque()  # oldest first
        # not told yet: more than none only while `advance` runs, or was interrupted
        self._events: list[TokenEvent] = []
        self._runner = runner
        self._packer = packer
        self._masks = masks
        self._metrics = metrics
        self._clock = clock
        self._count = count

    def advance(self, scheduler: Scheduler, *, overlapped: bool) -> list[TokenEvent]:
        """Launch the next step and commit one; overlapped: commit the one before. Interrupted, it can be called again.

        Where a row may draw only what follows on a token of the step before, that one is committed between the model's
        part of the step and its draw: the device computes meanwhile. A step is committed before the next one is planned
        where it verifies guesses, or where the next one is likely to be worth some.
        """
        self._draw_late(scheduler)  # an earlier call was interrupted
        ahead = overlapped and not scheduler.needs_commit()  # guesses go on from tokens that are known
        while len(self.in_flight) > ahead:  # two: an earlier commit was interrupted
            self._commit(scheduler)
        if launched := self._launch(scheduler):
            self._draw_late(scheduler)
        keep = 1 if launched and overlapped else 0
        if len(self.in_flight) > keep:
            self._commit(scheduler)
        events, self._events = self._events, []
        return events

    def drop(self, scheduler: Scheduler) -> None:
        """Commit what is in flight for nobody, and forget what is not told: every request has ended."""
        self._events.clear()
        while self.in_flight:
            plan = self.in_flight.popleft().plan
            scheduler.commit(plan, [0] * len(plan.rows))

    def _launch(self, scheduler: Scheduler) -> bool:
        """Send the next step on its way; False where nothing can be computed before a commit."""
        metrics = self._metrics
        started, drawn_s = self._clock(), scheduler.drawing_s
        plan = scheduler.plan()
        planned, drawing_s = self._clock(), scheduler.drawing_s - drawn_s
        metrics.plan_s += planned - started - drawing_s
        metrics.draft_s += drawing_s
        if plan is None:
            return False
        inputs = self._packer.pack(plan, self._runner.layout(plan.bucket))
        packed = self._clock()
        metrics.pack_s += packed - planned
        forward = self._runner.forward(inputs, plan.bucket)
        scheduler.launch(plan)
        self.in_flight.append(Step(plan=plan, forward=forward))
        metrics.execute_s += self._clock() - packed
        return True

    def _draw_late(self, scheduler: Scheduler) -> None:
        """Draw the tokens of the youngest step, if that is still to be done: after the commit of those before it where
        a row waits for one of theirs."""
        if not self.in_flight or self.in_flight[-1].result is not None:
            return
        step = self.in_flight[-1]
        assert step.forward is not None, "a step is drawn twice"
        masks = self._make_masks(step.plan, scheduler) if step.forward.inputs.bound else None
        started = self._clock()
        step.result = self._runner.draw(step.forward, masks)
        step.forward = None
        self._metrics.execute_s += self._clock() - started

    def _make_masks(self, plan: StepPlan, scheduler: Scheduler) -> np.ndarray | None:
        """The masks of a step's rows. What may draw nothing ends, before the draw: interrupted there, it is done again,
        and these have ended."""
        if any(map(waits, plan.rows)):
            while len(self.in_flight) > 1:
                self._commit(scheduler)
        started = self._clock()
        masks, ended = self._masks.of(plan)
        for end in ended:
            if (event := scheduler.finish(end.request.id, end.reason, error=end.error)) is not None:
                self._metrics.finished += 1
                self._events.append(event)
        self._metrics.mask_s += self._clock() - started
        return masks

    def _commit(self, scheduler: Scheduler) -> None:
        """Take in the oldest step in flight. Interrupted while it waits for the device, it can be called again."""
        started = self._clock()
        plan, result = self.in_flight[0].plan, self.in_flight[0].result
        assert result is not None, "a step is committed whose tokens were not drawn"
        rows = len(plan.rows)
        tokens, finite = result.tokens()[:rows], result.finite()[:rows]
        logprobs, prompt_logprobs = result.logprobs(plan), result.prompt_logprobs(plan)
        arrived = self._clock()
        self.in_flight.popleft()
        events = scheduler.commit(plan, tokens, finite=finite, logprobs=logprobs, prompt_logprobs=prompt_logprobs)
        self._events += events
        self._count(plan, events)
        metrics = self._metrics
        metrics.wait_s += arrived - started
        metrics.commit_s += self._clock() - arrived
