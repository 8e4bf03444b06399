"""A stream of several answers, one of which a stop string ends while more of its tokens are on their way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grammar_walk import small_tokenizer

from jaxpaged.answers import Answers, params_of_answers
from jaxpaged.async_engine import AsyncEngine
from jaxpaged.outputs import Completion, OutputKind
from jaxpaged.request import FinishReason, Request, SamplingParams, TokenEvent


class OneStep:
    """An engine whose first step tells these events."""

    def __init__(self, events: list[TokenEvent]) -> None:
        self.events = events
        self.has_unfinished = False
        self.stopped: list[str] = []

    def check(self, prompt: Sequence[int], params: SamplingParams) -> tuple[int, ...]:
        del params
        return tuple(prompt)

    def enqueue_all(self, ids: tuple[int, ...], params: SamplingParams, **_: Any) -> list[Request]:
        self.has_unfinished = True
        made = enumerate(params_of_answers(params))
        return [Request(id=f"x/{i}", prompt=ids, params=of_one, seed=0, max_tokens=9) for i, of_one in made]

    def answers(self, requests: list[Request], params: SamplingParams, kind: OutputKind, *, prompt: None) -> Answers:
        tokenizer = small_tokenizer()
        made = [Completion(one, tokenizer, prompt=prompt, kind=kind, clock=lambda: 0.0) for one in requests]
        return Answers(made, params)

    def step_tokens(self) -> list[TokenEvent]:
        self.has_unfinished = False
        return self.events

    def finish(self, name: str) -> None:
        self.stopped.append(name)


async def test_an_answer_that_has_ended_is_told_once() -> None:
    (a,), b = small_tokenizer().encode("a", add_special_tokens=False), small_tokenizer().encode("b")[-1]
    events = [TokenEvent("x/0", a), TokenEvent("x/0", b), TokenEvent("x/1", b, FinishReason.LENGTH)]
    core: Any = OneStep(events)
    async with AsyncEngine(core) as engine:
        told = [output async for output in engine.generate([1], SamplingParams(n=2, stop="a"))]
    assert [(one.outputs[0].index, one.outputs[0].finish_reason) for one in told] == [(0, "stop"), (1, "length")]
    assert told[-1].finished
