"""What the child does with each command, by an engine that computes nothing."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fake_engine import LEDGER
from jaxpaged_server.engine_process.beats import StepWatch
from jaxpaged_server.engine_process.faults import Faults
from jaxpaged_server.engine_process.outbox import Outbox
from jaxpaged_server.engine_process.wire import (
    Abort,
    Call,
    Finish,
    Frames,
    FromEngine,
    Item,
    PoolMap,
    Refused,
    Reply,
    Stop,
    Submit,
    Tokens,
    front_decoder,
)
from jaxpaged_server.engine_process.worker import Inbox, Worker

from jaxpaged.blockmap import BlockMap
from jaxpaged.errors import PromptError
from jaxpaged.metrics import EngineMetrics
from jaxpaged.request import FinishReason, Logprob, Request, SamplingParams, TokenEvent

PARAMS = SamplingParams(max_tokens=4)


class Idle:
    """A scheduler of nothing."""

    num_running = num_waiting = 0
    longest_wait_s = 0.0

    def __init__(self) -> None:
        self.resets = 0

    def ledger(self) -> Any:
        return LEDGER

    def block_map(self) -> BlockMap:
        return BlockMap(classes=b"\5\0\2", owners=(-1, -1, 0), requests=(("12", 3, 2, 1),))

    def reset_prefix_cache(self) -> None:
        self.resets += 1


class ScriptedEngine:
    """Gives the events that a test scripted, one list a step; a step that is an exception is raised."""

    def __init__(self, *steps: Sequence[TokenEvent] | Exception) -> None:
        self.steps = list(steps)
        self.metrics, self.ledger, self.scheduler = EngineMetrics(), LEDGER, Idle()
        self.requests: dict[str, Request] = {}
        self.ended: list[tuple[str, str]] = []

    @property
    def has_unfinished(self) -> bool:
        return bool(self.steps)

    def check(self, prompt: Sequence[int], params: SamplingParams, *, vetted: bool) -> tuple[int, ...]:
        assert vetted, "a form is looked at by the front end, not between two steps"
        if prompt == [99]:
            raise ZeroDivisionError("a mistake of ours")
        if not prompt:
            raise PromptError(name="prompt", value=[], limit="it has no token")
        return tuple(prompt)

    def enqueue_forks(
        self,
        ids: tuple[int, ...],
        params: Sequence[SamplingParams],
        *,
        request_ids: Sequence[str],
        salt: str,
        length_penalty: float | None,
    ) -> list[Request]:
        assert length_penalty is None
        made = [
            Request(id=name, prompt=ids, params=of_one, seed=0, max_tokens=4, salt=salt)
            for name, of_one in zip(request_ids, params, strict=True)
        ]
        for request in made:
            request.arrival_s, request.admitted_s, request.num_cached = 10.0, 10.5, 2
            self.requests[request.id] = request
        return made

    def abort(self, name: str) -> None:
        self.ended.append(("abort", name))

    def finish(self, name: str) -> None:
        self.ended.append(("finish", name))

    def step_tokens(self) -> list[TokenEvent]:
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return list(step)


class Wired:
    """A worker with both ends of its wire."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self._outbox, self._theirs = Outbox(ours), theirs
        self._inbox, self._frames = Inbox(), Frames()

    def serve(self, engine: Any, *commands: Any, faults: Faults | None = None) -> list[FromEngine]:
        """What the worker answers, until it has done all of these and the engine's steps."""
        for command in commands:
            self._inbox.put(command)
        worker = Worker(engine, self._inbox, self._outbox, watch=StepWatch(engine, max_step_tokens=64), faults=faults)
        if engine.steps:
            last = engine.steps[-1]
            if not isinstance(last, Exception):
                steps = engine.step_tokens

                def stopping() -> list[TokenEvent]:
                    events = steps()
                    if not engine.steps:
                        self._inbox.put(Stop())
                    return events

                engine.step_tokens = stopping
        else:
            self._inbox.put(Stop())
        worker.serve()
        return self.said()

    def said(self) -> list[FromEngine]:
        decoder, found = front_decoder(), []
        self._theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                found += [decoder.decode(body) for body in self._frames.push(self._theirs.recv(1 << 16))]
        return found


@pytest.fixture
def wired() -> Iterator[Wired]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Wired(ours, theirs)


def test_the_first_token_says_what_the_cache_and_the_queue_did(wired: Wired) -> None:
    first = [TokenEvent("7", 5), TokenEvent("8", 6, logprobs={6: Logprob(logprob=-1.5, rank=3)})]
    last = [TokenEvent("7", 9, FinishReason.STOP, stop_reason=9), TokenEvent("8", None, FinishReason.ERROR, error="no")]
    engine = ScriptedEngine(first, [], last)
    said = wired.serve(engine, Submit(7, [1, 2], PARAMS, "salted"), Submit(8, [3], PARAMS))
    assert said == [
        Tokens([Item(7, 5, num_cached=2, queue_s=0.5), Item(8, 6, num_cached=2, logprobs={6: (-1.5, 3)}, queue_s=0.5)]),
        Tokens([Item(7, 9, "stop", 9), Item(8, None, "error", error="no")]),
    ]
    assert [request.salt for request in engine.requests.values()] == ["salted", ""]


def test_log_probabilities_of_prompts_go_in_messages_of_their_own(wired: Wired) -> None:
    scores = (None, {4: Logprob(logprob=-2.0, rank=3)})
    step = [
        TokenEvent("1", 5),
        TokenEvent("2", 6, prompt_logprobs=scores),
        TokenEvent("3", 7, prompt_logprobs=scores),
        TokenEvent("4", 8),
        TokenEvent("5", 9),
    ]
    said = wired.serve(ScriptedEngine(step))
    assert [[item.id for item in message.items] for message in said if isinstance(message, Tokens)] == [
        [1],
        [2],
        [3],
        [4, 5],
    ]


def test_a_request_that_cannot_be_is_refused_and_others_go_on(wired: Wired, caplog: pytest.LogCaptureFixture) -> None:
    engine = ScriptedEngine([TokenEvent("3", 1, FinishReason.LENGTH)])
    bad, broken, good = wired.serve(engine, *(Submit(i + 1, ids, PARAMS) for i, ids in enumerate([[], [99], [4]])))
    assert isinstance(bad, Refused)
    assert (bad.id, bad.error.kind, bad.error.value) == (1, "PromptError", "[]")
    assert isinstance(broken, Refused)
    assert (broken.id, broken.error.kind, broken.error.limit) == (2, "InternalError", "a mistake of ours")
    (line,) = caplog.records
    assert line.getMessage() == "request 2 failed"
    assert line.exc_info is not None
    assert line.exc_info[0] is ZeroDivisionError
    assert isinstance(good, Tokens)


def test_forks_are_queued_together_and_refused_together(wired: Wired) -> None:
    other = SamplingParams(seed=8)
    engine = ScriptedEngine([TokenEvent("7", 5), TokenEvent("9", 6)])
    said = wired.serve(engine, Submit(7, [1, 2], PARAMS, "", [(9, other)]), Submit(1, [], PARAMS, "", [(2, PARAMS)]))
    assert [(name, request.params) for name, request in engine.requests.items()] == [("7", PARAMS), ("9", other)]
    assert [message.id for message in said if isinstance(message, Refused)] == [1, 2]
    assert [[item.queue_s for item in message.items] for message in said if isinstance(message, Tokens)] == [[0.5, 0.5]]


def test_aborts_and_finishes_reach_the_engine(wired: Wired) -> None:
    engine = ScriptedEngine()
    assert wired.serve(engine, Submit(1, [1], PARAMS), Abort([1, 2]), Finish(3)) == []
    assert engine.ended == [("abort", "1"), ("abort", "2"), ("finish", "3")]


def test_calls_are_answered_by_their_number(wired: Wired) -> None:
    engine = ScriptedEngine()
    calls = [Call(1, "reset_prefix_cache"), Call(2, "pool_map"), Call(3, "fault", "die")]
    reset, pool, unknown = wired.serve(engine, *calls)
    assert reset == Reply(1, True)
    assert engine.scheduler.resets == 1
    assert isinstance(pool, Reply)
    expected = PoolMap([5, 0, 2], [-1, -1, 0], [(12, 3, 2, 1)])
    assert (pool.call, pool.value) == (2, [expected.classes, [-1, -1, 0], [list(expected.requests[0])]])
    assert isinstance(unknown, Reply)
    assert unknown.error is not None, "no faults without --faults"
    assert unknown.error.kind == "RequestError"


def test_a_profile_that_was_never_begun_cannot_be_ended(wired: Wired) -> None:
    (said,) = wired.serve(ScriptedEngine(), Call(1, "stop_profile"))
    assert isinstance(said, Reply)
    assert said.error is not None
    assert (said.error.kind, said.error.name) == ("RequestError", "profile"), "the engine is not broken by it"


def test_a_step_that_raises_is_not_caught(wired: Wired) -> None:
    with pytest.raises(RuntimeError, match="device"):
        wired.serve(ScriptedEngine(RuntimeError("the device is gone")))


def test_faults_are_set_by_name(wired: Wired) -> None:
    engine, faults = ScriptedEngine([TokenEvent("1", 1)]), Faults()
    (bad, slow) = wired.serve(ScriptedEngine(), Call(1, "fault", "slow:x"), Call(2, "fault", "raise"), faults=faults)
    assert isinstance(bad, Reply)
    assert bad.error is not None
    assert slow == Reply(2)
    with pytest.raises(RuntimeError, match="asked for"):
        wired.serve(engine, faults=faults)
    faults.set("none")
    faults.before_step()
