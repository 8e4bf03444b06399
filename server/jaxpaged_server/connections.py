"""Deadlines of connections that the HTTP server itself has none for: a request's head must come in time, and what is
sent must be taken in time.

Stands between the socket and aiohttp's handler, by asyncio's protocol interface alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web

from jaxpaged_server.cork import Cork


class Connections:
    """All open connections. `began` and `ended` are called around each request."""

    def __init__(self, *, header_timeout_s: float, write_timeout_s: float, most: int) -> None:
        """write_timeout_s: how long a buffer may stay full; the reader takes 48 KB in that time, or is cut off.
        most: connections at a time; further ones are closed at once.
        """
        self.header_timeout_s = header_timeout_s
        self.write_timeout_s = write_timeout_s
        self.most = most
        self.cork = Cork()
        self._open: dict[int, _Guard] = {}  # by the identity of aiohttp's handler; `connection_lost` takes it out

    def guard(self, factory: Callable[[], asyncio.BaseProtocol]) -> Callable[[], asyncio.Protocol]:
        """A protocol factory for `loop.create_server`, around aiohttp's."""
        return lambda: _Guard(factory(), self)

    def __len__(self) -> int:
        return len(self._open)

    def open_guards(self) -> list[_Guard]:
        """Those that are open now."""
        return list(self._open.values())

    def began(self, request: web.Request) -> None:
        """A request's head is there."""
        if (guard := self._open.get(id(request.protocol))) is not None:
            guard.begin()

    def ended(self, request: web.Request) -> None:
        """Its handler is done; what it answers may still be on its way."""
        if (guard := self._open.get(id(request.protocol))) is not None:
            guard.end()

    def opened(self, guard: _Guard) -> bool:
        """Note a connection; False where there are too many."""
        self._open[id(guard.inner)] = guard
        return len(self._open) <= self.most

    def lost(self, guard: _Guard) -> None:
        """Forget a connection."""
        self._open.pop(id(guard.inner), None)


class _Guard(asyncio.Protocol):
    """One connection: passes everything on, and closes it where a head takes too long."""

    def __init__(self, inner: asyncio.BaseProtocol, connections: Connections) -> None:
        self.inner: Any = inner
        self._connections = connections
        self.transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._tail: bytes | None = None  # the last bytes of a head that is not whole yet; None before its first one

    def begin(self) -> None:
        self._busy = True
        self._disarm()

    def end(self) -> None:
        self._busy = False
        self._tail = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are of no class of asyncio
        fits = self._connections.opened(self)
        self.inner.connection_made(self._connections.cork.transport(self.transport))
        if not fits:
            self.transport.abort()
            return
        self._arm()

    def data_received(self, data: bytes) -> None:
        if not self._busy:
            if self._timer is None:  # the first bytes of the next head on a kept connection
                self._arm()
            # empty lines may come before a head, and are no end of one
            ending = data.lstrip(b"\r\n") if self._tail is None else self._tail + data
            # a whole head is in time, even where its handler cannot begin yet, since many came at once
            if b"\r\n\r\n" in ending:
                self._disarm()
            self._tail = ending[-3:] or None
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        assert self.transport is not None
        loop = asyncio.get_running_loop()
        self._write_timer = loop.call_later(self._connections.write_timeout_s, self.transport.abort)
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self._end_write_timer()
        self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._end_write_timer()
        self._connections.lost(self)
        self.inner.connection_lost(exc)

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._connections.header_timeout_s, self._too_late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _too_late(self) -> None:
        self._timer = None
        if not self._busy and self.transport is not None:
            self.transport.abort()
