"""The engine for asyncio: one thread steps, streams wait without polling.

Commands go to the thread by a queue (it sleeps on the queue when there is no work); tokens come back by
`call_soon_threadsafe`, one call a step and event loop. Nothing else crosses. Text stays out of that thread: prompts are
tokenised in others, tokens become text where their stream is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jaxpaged.answers import check_output_kind
from jaxpaged.beams import BeamSearchParams, search_of
from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import EngineError, RequestError
from jaxpaged.outputs import OutputKind
from jaxpaged.request import Request, RequestOutput, SamplingParams, TokenEvent


@dataclass(slots=True, eq=False)
class _Stream:
    """Where the tokens of one request's answers go: a queue that only its own event loop touches.

    names: ids of the answers, and left: of those that go on; touched by the engine thread only.
    """

    loop: asyncio.AbstractEventLoop
    names: tuple[str, ...] = ()
    left: set[str] = field(default_factory=set)
    events: asyncio.Queue[TokenEvent | BaseException] = field(default_factory=asyncio.Queue)


_ByLoop = dict[asyncio.AbstractEventLoop, list[tuple[_Stream, TokenEvent | BaseException]]]


class AsyncEngine:
    """Serves many asyncio tasks from one `LLMEngine` on its own thread.

    `async with AsyncEngine.from_config(config) as engine: async for output in engine.generate(...)`.
    Leaving the iterator early, or cancelling its task, aborts the request.
    """

    def __init__(self, engine: LLMEngine) -> None:
        self.engine = engine
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._streams: dict[str, _Stream] = {}  # touched by the engine thread only
        self._failure: BaseException | None = None
        self._closing = False
        self._door = threading.Lock()  # guards _closing beside the command queue
        self._idle_waiters: list[Future[bool]] = []  # touched by the engine thread only
        self._thread = threading.Thread(target=self._run, name="jaxpaged-engine", daemon=True)
        self._thread.start()

    @classmethod
    def from_config(cls, config: EngineConfig | None = None, *, progress: bool = False) -> AsyncEngine:
        """Load the model and compile, then start the thread. Blocks; raises as `LLMEngine` does."""
        return cls(LLMEngine(config, progress=progress))

    async def __aenter__(self) -> AsyncEngine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def generate(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | BeamSearchParams | None = None,
        *,
        request_id: str | None = None,
        output_kind: OutputKind = OutputKind.CUMULATIVE,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Stream a request's outputs, the last one `finished`. Raises RequestError as `LLMEngine.submit` does.

        EngineError if the engine stopped or broke before the end. Where there are several answers (n, best_of), one
        before the end holds one of them, with its index; with BeamSearchParams they are what the search finds.
        """
        params, length_penalty = search_of(params or self.engine.default_params)
        check_output_kind(params, output_kind, searches=length_penalty is not None)
        with self._door:
            self._require_open()
        ids = await asyncio.to_thread(self.engine.check, prompt, params)
        stream = _Stream(asyncio.get_running_loop())
        accepted: Future[list[Request]] = Future()
        self._send(lambda: self._submit(stream, accepted, ids, params, request_id, length_penalty))
        ended = False
        try:
            requests = await asyncio.wrap_future(accepted)
            text = prompt if isinstance(prompt, str) else None
            answers = self.engine.answers(requests, params, output_kind, prompt=text)
            while not ended:
                event = await stream.events.get()
                if isinstance(event, BaseException):
                    ended = True
                    raise event
                if answers.has_ended(event.request_id):
                    continue
                if answers.push(event):  # its text has met a stop string; tokens on their way are not waited for
                    with contextlib.suppress(EngineError):  # an engine that closes ends its requests itself
                        self._send(partial(self._stop, stream, event.request_id))
                ended = answers.finished
                output = answers.output(event.request_id)
                if output is not None:
                    yield output
        finally:
            if not ended:
                with contextlib.suppress(EngineError):
                    self._send(lambda: self._forget(stream, accepted))

    async def abort(self, request_id: str) -> bool:
        """End a request; its stream gets no further output and ends with EngineError. False if not in flight."""
        done: Future[bool] = Future()

        def command() -> None:
            stream = self._streams.get(request_id)
            found = self._leave(stream, request_id)
            if stream is not None:
                self._deliver({stream.loop: [(stream, _stopped("request", request_id, "it was aborted"))]})
            _resolve(done, found)

        self._send(command)
        return await asyncio.wrap_future(done)

    async def drain(self) -> None:
        """Wait until no request is in flight."""
        idle: Future[bool] = Future()
        self._send(lambda: self._when_idle(idle))
        await asyncio.wrap_future(idle)

    async def close(self) -> None:
        """Abort what is in flight and end the thread."""
        with self._door:
            if not self._closing:
                self._closing = True
                self._commands.put(None)
        await asyncio.to_thread(self._thread.join)

    def _send(self, command: Callable[[], None]) -> None:
        with self._door:  # what gets in is run, even while the thread ends
            self._require_open()
            self._commands.put(command)

    def _require_open(self) -> None:
        if self._closing:
            state = "closed" if self._failure is None else repr(self._failure)
            raise _stopped("engine", state, "it takes no requests")

    # From here on: the engine thread.

    def _run(self) -> None:
        try:
            while True:
                command = self._next_command()
                if command is _CLOSE:
                    break
                if command is _NONE:
                    self._step()
                else:
                    command()
                if self._idle_waiters and not self.engine.has_unfinished:
                    for waiter in self._idle_waiters:
                        _resolve(waiter, True)
                    self._idle_waiters.clear()
        except BaseException as error:
            self._failure = error
        with self._door:
            self._closing = True
        self._end_all(self._failure)

    def _next_command(self) -> Any:
        """The next command; `_NONE` when there is none and there is work to step; sleeps when there is neither."""
        try:
            command = self._commands.get(block=not self.engine.has_unfinished)
        except queue.Empty:
            return _NONE
        return _CLOSE if command is None else command

    def _step(self) -> None:
        by_loop: _ByLoop = {}
        for event in self.engine.step_tokens():
            stream = self._streams.get(event.request_id)
            if stream is None:
                continue
            if event.request_id not in stream.left:
                continue  # its text has ended
            by_loop.setdefault(stream.loop, []).append((stream, event))
            if event.finish is not None:
                self._ended(stream, event.request_id)
        self._deliver(by_loop)

    def _ended(self, stream: _Stream, *names: str) -> None:
        """Take note that answers have ended; their ids stay the stream's until all have."""
        stream.left.difference_update(names)
        if not stream.left:
            for name in stream.names:
                del self._streams[name]

    def _leave(self, stream: _Stream | None, request_id: str) -> bool:
        """End a request, or all answers of a stream; whether any was in flight."""
        if stream is None:
            return self.engine.abort(request_id)
        found = [self.engine.abort(name) for name in stream.left]
        self._ended(stream, *stream.names)
        return any(found)

    def _submit(
        self,
        stream: _Stream,
        accepted: Future[list[Request]],
        ids: tuple[int, ...],
        params: SamplingParams,
        request_id: str | None,
        length_penalty: float | None,
    ) -> None:
        if not accepted.set_running_or_notify_cancel():
            return
        try:
            if request_id in self._streams:  # its own answer may have ended, not yet those beside it
                raise RequestError(name="request id", value=request_id, limit="a request with this id is in flight")
            requests = self.engine.enqueue_all(ids, params, request_id=request_id, length_penalty=length_penalty)
        except Exception as error:
            accepted.set_exception(error)
            return
        stream.names = tuple(request.id for request in requests)
        stream.left.update(stream.names)
        self._streams.update(dict.fromkeys(stream.names, stream))
        accepted.set_result(requests)

    def _stop(self, stream: _Stream, request_id: str) -> None:
        if request_id in stream.left:  # else it has ended, and its id may be another request's
            self._ended(stream, request_id)
            self.engine.finish(request_id)

    def _forget(self, stream: _Stream, accepted: Future[list[Request]]) -> None:
        if not accepted.done() or accepted.cancelled() or accepted.exception() is not None:
            return
        if stream.left:
            self._leave(stream, stream.names[0])

    def _when_idle(self, waiter: Future[bool]) -> None:
        self._idle_waiters.append(waiter)

    def _end_all(self, failure: BaseException | None) -> None:
        """Nobody waits for ever: run what was still sent, then end every stream and every waiter with an error."""
        with contextlib.suppress(queue.Empty):
            while True:
                command = self._commands.get(block=False)
                if command is not None:
                    with contextlib.suppress(Exception):
                        command()
        by_loop: _ByLoop = {}
        for request_id, stream in self._streams.items():
            with contextlib.suppress(Exception):  # a broken engine may not even abort
                self.engine.abort(request_id)
            why = _stopped("request", request_id, "the engine stopped before its end")
            why.__cause__ = failure
            by_loop.setdefault(stream.loop, []).append((stream, why))
        self._streams.clear()
        self._deliver(by_loop)
        for waiter in self._idle_waiters:
            if waiter.set_running_or_notify_cancel():
                waiter.set_exception(_stopped("engine", "stopped", "it ended before it was idle"))
        self._idle_waiters.clear()

    @staticmethod
    def _deliver(by_loop: _ByLoop) -> None:
        for loop, items in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to read
                loop.call_soon_threadsafe(_put_all, items)


_NONE = object()
_CLOSE = object()


def _put_all(items: list[tuple[_Stream, TokenEvent | BaseException]]) -> None:
    for stream, item in items:
        stream.events.put_nowait(item)


def _resolve(future: Future[bool], value: bool) -> None:
    """Answer a caller who may have stopped waiting."""
    if future.set_running_or_notify_cancel():
        future.set_result(value)


def _stopped(name: str, value: object, limit: str) -> EngineError:
    return EngineError(name=name, value=value, limit=limit)
