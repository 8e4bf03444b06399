"""Server-sent events: a response that begins with its first event, and stays alive without one."""

from __future__ import annotations

import asyncio
from types import TracebackType

import msgspec
from aiohttp import web

from jaxpaged_server.api.common import ErrorReply

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would gather events
}
_encode = msgspec.json.Encoder().encode


class EventStream:
    """The events of one reply. Nothing is sent before the first `send`, so that an error may still have its status.

    Used as `async with EventStream(...) as events`. keep_alive_s: a comment is sent after so many seconds without an
    event, the first one with the headers; 0: never. A reader who is slow is waited for, as long as `Connections` does.
    """

    def __init__(self, request: web.Request, *, keep_alive_s: float) -> None:
        self.response = web.StreamResponse(headers=_HEADERS)
        self.num_bytes = 0
        self._request = request
        self._keep_alive_s = keep_alive_s
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    @property
    def begun(self) -> bool:
        """Whether the headers are sent."""
        return self.response.prepared

    async def __aenter__(self) -> EventStream:
        if self._keep_alive_s:
            self._timer = self._loop.call_later(self._keep_alive_s, self._tick)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()

    async def send(self, event: msgspec.Struct) -> None:
        """Send one event. Raises ConnectionError when the reader is gone."""
        data = b"data: %b\n\n" % _encode(event)
        if not self.response.prepared:
            return await self._write(data)
        self._last = self._loop.time()
        self.num_bytes += len(data)
        return await self.response.write(data)

    async def fail(self, reply: ErrorReply) -> None:
        """End with an error, as an event."""
        await self._write(b"data: %b\n\n%b" % (_encode(reply), DONE))

    async def end(self) -> web.StreamResponse:
        """Say that it was all; returns the response."""
        await self._write(DONE)
        await self.response.write_eof()
        return self.response

    async def _write(self, data: bytes) -> None:
        if not self.response.prepared:
            async with self._lock:
                if not self.response.prepared:
                    await self.response.prepare(self._request)
        self._last = self._loop.time()
        self.num_bytes += len(data)
        await self.response.write(data)

    def _tick(self) -> None:
        """Comments cost nothing per event: one timer looks now and then."""
        idle = self._loop.time() - self._last
        left = self._keep_alive_s - idle
        if left <= 0.0 and (self._comment is None or self._comment.done()):
            self._comment = self._loop.create_task(self._say_alive())
            left = self._keep_alive_s
        self._timer = self._loop.call_later(max(left, 0.05), self._tick)

    async def _say_alive(self) -> None:
        try:
            await self._write(KEEP_ALIVE)
        except ConnectionError:
            return  # the handler learns it by itself
