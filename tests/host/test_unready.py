"""Submissions whose grammars are still read: kept aside, each until it can go, or for so long at most."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from grammar_walk import small_tokenizer

from jaxpaged.errors import GrammarError
from jaxpaged.request import FinishReason, Request, RequestState, SamplingParams
from jaxpaged.structured.constraint import GrammarConstraint
from jaxpaged.structured.grammars import Grammars
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged.structured.readings import MAX_FORMS, Compiled, Reading, Readings
from jaxpaged.unready import MAX_WAIT_S, Unready

FORM = StructuredOutputsParams(choice=["yes", "no"])


class Queue:
    """Threads that do nothing until they are told to."""

    def __init__(self) -> None:
        self.left: list[tuple[Future[Any], Any]] = []

    def submit(self, work: Any) -> Future[Any]:
        made: Future[Any] = Future()
        self.left.append((made, work))
        return made

    def do(self) -> int:
        """All that is left and was not cancelled; returns how much."""
        done = 0
        for made, work in self.left:
            if made.set_running_or_notify_cancel():
                done += 1
                try:
                    made.set_result(work())
                except Exception as error:
                    made.set_exception(error)
        self.left = []
        return done


def read() -> Compiled:
    grammars = Grammars(small_tokenizer(), width=small_tokenizer().vocab_size)
    return grammars.constraint(FORM, ends=()).made.result()


class Desk:
    """Readings, a queue to do them in, and what waits for them."""

    def __init__(self) -> None:
        self.queue, self.readings, self.now = Queue(), Readings(), 0.0
        self.unready = Unready(clock=lambda: self.now)

    def reading(self, form: StructuredOutputsParams = FORM, work: Any = read, salt: str = "") -> Reading:
        return self.readings.of((form, salt), self.queue, work)  # pyright: ignore[reportArgumentType]

    def request(self, name: str, form: StructuredOutputsParams = FORM, work: Any = read) -> Request:
        constraint = GrammarConstraint(self.reading(form, work), ends=(1,))
        params = SamplingParams(structured_outputs=form)
        return Request(
            id=name, prompt=(5,), params=params, seed=0, max_tokens=9, constraints=(constraint,), arrival_s=self.now
        )


def fill(request: Request) -> int:
    """How many tokens may come first."""
    mask = np.full(-(-small_tokenizer().vocab_size // 32), 0xFFFFFFFF, np.uint32)
    request.constraints[0].fill([], mask)
    return int(np.bitwise_count(mask).sum())


def test_forks_wait_together_for_one_reading() -> None:
    desk = Desk()
    requests = [desk.request(f"{i}") for i in range(8)]
    assert desk.unready.add(requests)
    assert (len(desk.unready), "7" in desk.unready, "8" in desk.unready) == (8, True, False)
    assert desk.unready.take(idle=False) == desk.unready.take(idle=True) == []
    assert desk.queue.do() == 1
    assert desk.unready.take(idle=False) == [requests]
    assert not desk.unready
    assert {fill(request) for request in requests} == {fill(requests[0])}
    assert 0 < fill(requests[0]) < 10
    assert not desk.unready.add([desk.request("again")]), "what was read is not waited for"
    assert desk.queue.do() == 0


def test_one_that_is_ready_passes_one_that_is_not() -> None:
    desk = Desk()
    slow = desk.request("slow")
    assert desk.unready.add([slow])
    late, desk.queue.left = desk.queue.left, []
    quick = desk.request("quick", StructuredOutputsParams(regex="a"))
    assert desk.unready.add([quick])
    desk.queue.do()
    assert desk.unready.take(idle=False) == [[quick]]
    desk.queue.left = late
    desk.queue.do()
    assert desk.unready.take(idle=False) == [[slow]]


def test_what_nobody_waits_for_is_not_read() -> None:
    desk = Desk()
    first, second = desk.request("a"), desk.request("b")
    desk.unready.add([first, second])
    assert desk.unready.leave("a", FinishReason.ABORT)
    assert (first.state, first.finish) == (RequestState.FINISHED, FinishReason.ABORT)
    assert not desk.unready.leave("a", FinishReason.ABORT)
    assert desk.unready
    assert desk.unready.leave("b", FinishReason.ABORT)
    assert not desk.unready
    assert desk.queue.do() == 0
    desk.unready.add([desk.request("c")])
    assert desk.queue.do() == 1, "whoever comes later has it read"


def test_one_who_left_does_not_take_the_grammar_from_others() -> None:
    desk = Desk()
    kept = desk.request("kept")
    desk.unready.add([desk.request("left")])
    desk.unready.add([kept])
    assert desk.unready.leave("left", FinishReason.ABORT)
    assert desk.queue.do() == 1
    assert desk.unready.take(idle=False) == [[kept]]


def test_nobody_waits_for_ever() -> None:
    desk = Desk()
    request = desk.request("a")
    desk.unready.add([request])
    desk.now = MAX_WAIT_S
    assert desk.unready.take(idle=True) == []
    desk.now += 0.1
    assert desk.unready.take(idle=True) == [[request]]
    assert desk.queue.do() == 0
    with pytest.raises(GrammarError, match="within 30 s"):
        fill(request)


def test_what_failed_is_told_and_read_again() -> None:
    def fails() -> Compiled:
        raise GrammarError(name="choice", value="a form", limit="too much memory")

    desk = Desk()
    request = desk.request("a", work=fails)
    desk.unready.add([request])
    desk.queue.do()
    assert desk.unready.take(idle=False) == [[request]]
    with pytest.raises(GrammarError, match="too much memory"):
        fill(request)
    desk.request("b")
    assert desk.queue.do() == 1


def test_forms_are_kept_in_number_and_in_size() -> None:
    desk = Desk()
    first = desk.reading()
    for i in range(MAX_FORMS - 1):
        desk.reading(StructuredOutputsParams(regex=f"a{i}"))
    assert desk.reading() is first
    desk.reading(StructuredOutputsParams(regex="b"))
    assert desk.reading() is first, "what was asked for last stays"
    assert desk.reading(salt="another") is not first
    large = [StructuredOutputsParams(regex=letter * (1 << 18)) for letter in "abcde"]
    for form in large:
        desk.reading(form)
    assert desk.reading(large[-1]) is desk.reading(large[-1])
    assert desk.reading() is not first
