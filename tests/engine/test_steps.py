"""What becomes of steps that are interrupted or dropped, without a device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from jaxpaged.buckets import Bucket
from jaxpaged.mask_filler import Ended
from jaxpaged.metrics import EngineMetrics
from jaxpaged.plan import RowPlan, StepPlan
from jaxpaged.request import FinishReason, Request, RequestState, SamplingParams, TokenEvent
from jaxpaged.steps import Steps


class Result:
    """What a step of one row came to: token 7."""

    def tokens(self) -> list[int]:
        return [7]

    def finite(self) -> list[bool]:
        return [True]

    def logprobs(self, plan: StepPlan) -> None:
        del plan

    def prompt_logprobs(self, plan: StepPlan) -> None:
        del plan


class Logits:
    """What a step of bound rows is drawn from."""

    inputs = SimpleNamespace(bound=True)


class Device:
    """Packs, masks and draws nothing; is interrupted in its first draws, so many times."""

    def __init__(self, *, interrupts: int, ended: list[Ended]) -> None:
        self.interrupts, self.ended = interrupts, ended

    def layout(self, bucket: Bucket) -> None:
        del bucket

    def pack(self, plan: StepPlan, layout: None) -> None:
        del plan, layout

    def forward(self, inputs: None, bucket: Bucket) -> Logits:
        del inputs, bucket
        return Logits()

    def of(self, plan: StepPlan) -> tuple[None, list[Ended]]:
        """Of requests that go on, those that end now, as the filler of masks tells them."""
        del plan
        return None, [end for end in self.ended if end.request.state is not RequestState.FINISHED]

    def draw(self, forward: Logits, masks: None) -> Result:
        del masks
        assert isinstance(forward, Logits)
        if self.interrupts:
            self.interrupts -= 1
            raise KeyboardInterrupt
        return Result()


class Desk:
    """A scheduler of one request."""

    drawing_s = 0.0

    def __init__(self) -> None:
        self.request = Request(id="a", prompt=(1, 2), params=SamplingParams(), seed=0, max_tokens=1)
        self.launched = 0

    def needs_commit(self) -> bool:
        return False

    def plan(self) -> StepPlan | None:
        if self.launched or self.request.state is RequestState.FINISHED:
            return None
        return StepPlan(rows=(RowPlan(self.request, 0, 2, True),), bucket=Bucket(tokens=2, rows=1))

    def launch(self, plan: StepPlan) -> None:
        del plan
        self.launched += 1

    def finish(self, name: str, reason: FinishReason, *, error: str | None = None) -> TokenEvent | None:
        if self.request.state is RequestState.FINISHED:
            return None
        self.request.state = RequestState.FINISHED
        return TokenEvent(name, None, reason, error=error)

    def commit(self, plan: StepPlan, tokens: list[int], **_: Any) -> list[TokenEvent]:
        del plan
        return [] if self.request.state is RequestState.FINISHED else [TokenEvent("a", tokens[0], FinishReason.LENGTH)]


def steps_of(device: Any) -> Steps:
    return Steps(device, device, device, metrics=EngineMetrics(), clock=lambda: 0.0, count=lambda plan, events: None)


def test_an_end_outlives_an_interrupted_draw() -> None:
    desk: Any = Desk()
    steps = steps_of(Device(interrupts=1, ended=[Ended(request=desk.request, reason=FinishReason.STOP)]))
    with pytest.raises(KeyboardInterrupt):
        steps.advance(desk, overlapped=False)
    assert steps.advance(desk, overlapped=False) == [TokenEvent("a", None, FinishReason.STOP)]
    assert steps.advance(desk, overlapped=False) == []


def test_what_is_dropped_is_told_to_nobody() -> None:
    desk: Any = Desk()
    steps = steps_of(Device(interrupts=1, ended=[Ended(request=desk.request, reason=FinishReason.STOP)]))
    with pytest.raises(KeyboardInterrupt):
        steps.advance(desk, overlapped=False)
    steps.drop(desk)
    assert not steps.in_flight
    assert steps.advance(desk, overlapped=False) == []


def test_logits_are_let_go_once_tokens_are_drawn() -> None:
    desk: Any = Desk()
    steps = steps_of(Device(interrupts=0, ended=[]))
    assert steps.advance(desk, overlapped=True) == []
    (step,) = steps.in_flight
    assert step.result is not None
    assert step.forward is None
    assert steps.advance(desk, overlapped=True) == [TokenEvent("a", 7, FinishReason.LENGTH)]
