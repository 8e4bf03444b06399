"""The front end's end of the wire to one engine process: streams of tokens, calls, and all else to a listener. [no jax]

One callback of the event loop per piece that the socket gives, whatever number of tokens is in it; a stream costs a
future only when its reader waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import msgspec

from jaxpaged.errors import EngineError, JaxPagedError, PromptError
from jaxpaged.request import SamplingParams
from jaxpaged_server.engine_process.error_fields import error_of
from jaxpaged_server.engine_process.token_stream import TokenStream
from jaxpaged_server.engine_process.wire import (
    Abort,
    Beat,
    Broken,
    CacheEvents,
    Call,
    Finish,
    Frames,
    FromEngine,
    Item,
    Message,
    Phase,
    PoolMap,
    Ready,
    Refused,
    Reply,
    Submit,
    Tokens,
    frame,
    front_decoder,
)

Said = Phase | Ready | Beat | CacheEvents | Broken


class EngineClient(asyncio.Protocol):
    """Speaks to one engine process, until `lost`.

    listener: is given what concerns no single request. on_gone: called before the first stream fails, so that nobody
    who is let in by those that leave comes to an engine that is gone. numbers: of requests; the engines of a server
    share them, so that none is used twice. What is sent while the engine does not read is kept, as long as the requests
    in flight.
    """

    def __init__(
        self,
        listener: Callable[[Said], None],
        *,
        on_gone: Callable[[], object] = lambda: None,
        numbers: Iterator[int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection is."""
        self.heard_at = clock()
        """When anything arrived last, on the clock."""
        self.trouble: str | None = None
        """Why this end gave up the connection, if it did."""
        self._listener, self._on_gone, self._clock = listener, on_gone, clock
        self._numbers = numbers or itertools.count(1)
        self._calls_made = itertools.count(1)
        self._frames, self._decoder = Frames(), front_decoder()
        self._transport: asyncio.WriteTransport | None = None
        self._streams: dict[int, TokenStream] = {}  # of requests in flight: admission bounds them
        self._calls: dict[int, asyncio.Future[Any]] = {}  # each with its time limit
        self._gone: Callable[[], JaxPagedError] | None = None  # why it takes no requests

    @property
    def num_streams(self) -> int:
        """Requests in flight."""
        return len(self._streams)

    def submit(self, ids: Sequence[int], params: SamplingParams, *, salt: str = "") -> TokenStream:
        """Queue a prompt. Raises EngineError when the engine is gone, PromptError for ids that are no token ids.

        What the engine itself refuses is raised by the stream.
        """
        return self.submit_forks(ids, [params], salt=salt)[0]

    def submit_forks(
        self,
        ids: Sequence[int],
        params: Sequence[SamplingParams],
        *,
        salt: str = "",
        length_penalty: float | None = None,
    ) -> list[TokenStream]:
        """The same for requests of one prompt, which the engine computes and holds once for all of them.

        length_penalty: they are the beams of a search; see `LLMEngine.enqueue_forks`.
        """
        self._require_open()
        (number, first), *followers = [(next(self._numbers), of_one) for of_one in params]
        try:
            data = frame(Submit(number, cast("list[int]", ids), first, salt, followers, length_penalty))
        except (TypeError, OverflowError) as error:
            raise PromptError(name="prompt token ids", value=ids, limit=f"they cannot be sent: {error}") from error
        streams = [TokenStream(each, self._leave) for each in (number, *(other for other, _ in followers))]
        self._streams.update({stream.id: stream for stream in streams})
        self._write(data)
        return streams

    async def call(self, name: str, argument: str = "", *, timeout_s: float) -> Any:
        """Ask for something else; see `wire.Call`. Raises what the engine answers, and EngineError for no answer."""
        self._require_open()
        number = next(self._calls_made)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[number] = answer
        self.send(Call(number, name, argument))
        try:
            value = await asyncio.wait_for(answer, timeout_s)
        except TimeoutError:
            raise EngineError(name=name, value=argument, limit=f"no answer came in {timeout_s:g} s") from None
        finally:
            self._calls.pop(number, None)
        return msgspec.convert(value, PoolMap) if name == "pool_map" else value

    def send(self, message: Message) -> None:
        """Send a message; nothing is done when the engine is gone."""
        self._write(frame(message))

    def abort_all(self) -> int:
        """End every request in flight with finish reason "abort", which its stream is given; returns how many."""
        numbers = list(self._streams)
        if numbers:
            self.send(Abort(numbers))
        for number in numbers:
            self._streams.pop(number).push(Item(number, finish="abort"), self._clock())
        return len(numbers)

    def fail(self, make: Callable[[], JaxPagedError]) -> None:
        """End every stream and call with an error of its own, and take no more. The first one to fail it is right."""
        if self._gone is None:
            self._gone = make
            self._on_gone()
        while self._streams:
            self._streams.popitem()[1].fail(self._gone())
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(self._gone())

    def close(self) -> None:
        """Give up the connection."""
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._clock()
        try:
            for body in self._frames.push(data):
                self._take(self._decoder.decode(body))
        except (ValueError, msgspec.MsgspecError) as error:  # the other end is not of this version, or out of its mind
            self.trouble = trouble = f"it sent what is no message: {error}"
            self.fail(lambda: EngineError(name="engine", value="confused", limit=trouble))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.fail(lambda: EngineError(name="engine", value="gone", limit="its process has ended"))
        if not self.lost.done():
            self.lost.set_result(None)

    def _take(self, message: FromEngine) -> None:
        if isinstance(message, Tokens):
            streams, at = self._streams, self.heard_at
            for item in message.items:
                stream = streams.get(item.id)
                if stream is not None:  # else it was left, and this was on its way
                    stream.push(item, at)
                    if item.finish is not None:
                        del streams[item.id]
        elif isinstance(message, Refused):
            stream = self._streams.pop(message.id, None)
            if stream is not None:
                stream.fail(error_of(message.error))
        elif isinstance(message, Reply):
            self._answer(message)
        else:
            self._listener(message)

    def _answer(self, reply: Reply) -> None:
        answer = self._calls.get(reply.call)
        if answer is None or answer.done():
            return  # nobody waits any more
        if reply.error is None:
            answer.set_result(reply.value)
        else:
            answer.set_exception(error_of(reply.error))

    def _leave(self, number: int, message: Abort | Finish) -> None:
        if self._streams.pop(number, None) is not None:
            self.send(message)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            with contextlib.suppress(OSError):  # its end is told by connection_lost
                self._transport.write(data)

    def _require_open(self) -> None:
        if self._gone is not None:
            raise self._gone()
        if self._transport is None:
            raise EngineError(name="engine", value="not connected", limit="it takes no requests yet")
