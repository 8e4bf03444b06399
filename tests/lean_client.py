"""Sends requests and times their replies for a tenth of what a full HTTP client costs, so that a flood takes less of
the machine that it is to measure. Knows as much of HTTP as this project's servers say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from jaxpaged_server.load.endpoint import Endpoint
from jaxpaged_server.load.outcome import End, Outcome

_EVENT = b"data: {"
_END = b"data: [DONE]\n\n"


class LeanClient:
    """Speaks to one endpoint. Times are seconds since `began_s` of `time.perf_counter`. Close it at the end."""

    def __init__(self, endpoint: Endpoint, *, timeout_s: float) -> None:
        url = urlsplit(endpoint.url)
        assert url.scheme == "http", "it speaks no TLS"
        self.began_s = time.perf_counter()
        self._host, self._port, self._timeout_s = url.hostname or "", url.port or 80, timeout_s
        headers = {"Host": url.netloc, "Content-Type": "application/json", **endpoint.headers}
        self._head = f"POST {url.path} HTTP/1.1\r\n{_lines(headers)}"
        self._idle: list[_Connection] = []

    def now_s(self) -> float:
        return time.perf_counter() - self.began_s

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    async def send(self, body: bytes, outcome: Outcome, headers: Mapping[str, str] | None = None) -> None:
        """Send a request and note its answer."""
        request = f"{self._head}{_lines(headers or {})}Content-Length: {len(body)}\r\n\r\n".encode() + body
        connection = None
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._connection()
                await connection.exchange(request, outcome, self)
        except TimeoutError:
            outcome.fail("timeout", "", self.now_s())
        except OSError as error:
            outcome.fail("cut off", str(error), self.now_s())
        finally:
            if connection is not None:
                if connection.is_idle:
                    self._idle.append(connection)
                else:
                    connection.close()

    async def _connection(self) -> _Connection:
        while self._idle:
            if not (connection := self._idle.pop()).is_lost:
                return connection
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port)
        return connection


def _lines(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self.is_lost = False
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None
        self._closes = False

    @property
    def is_idle(self) -> bool:
        """Whether another request may be sent."""
        return self._done is None and not self._closes and not self.is_lost

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def exchange(self, request: bytes, outcome: Outcome, client: LeanClient) -> None:
        """Raises ConnectionError where the answer does not come to its end."""
        assert self._transport is not None
        self._outcome, self._client = outcome, client
        self._status, self._left, self._data = 0, -1, b""  # left: of a body of known length
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._done
        self._done = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._done is None or self._done.done():
            self._closes = True  # it says something that nobody asked for
            return
        if not self._status:
            self._data += data
            head, found, data = self._data.partition(b"\r\n\r\n")
            if not found:
                return
            self._take_head(head.lower().split(b"\r\n"))
            self._data = b""
        self._take_body(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionResetError("closed before the end of the answer"))

    def _take_head(self, lines: list[bytes]) -> None:
        self._status = int(lines[0].split(b" ")[1])
        for name, _, value in (line.partition(b": ") for line in lines[1:]):
            if name == b"content-length":
                self._left = int(value)
            elif name == b"retry-after":
                self._outcome.retry_after_s = float(value)
            elif name == b"connection":
                self._closes = value == b"close"

    def _take_body(self, data: bytes) -> None:
        outcome, now_s = self._outcome, self._client.now_s()
        if self._left >= 0:
            self._left -= len(data)
            if self._left <= 0:
                end = End.REFUSED if self._status == 429 else End.FAILED
                outcome.fail(f"HTTP {self._status}", "", now_s, end=end)
                self._finish()
            return
        tail = self._data
        self._data = (tail + data)[-64:]
        for _ in range((tail[1 - len(_EVENT) :] + data).count(_EVENT)):
            outcome.add(1, now_s)
        if _END in tail + data:
            outcome.end, outcome.ended_s = End.DONE, now_s
        if outcome.is_done and self._data.endswith(b"\r\n0\r\n\r\n"):
            self._finish()

    def _finish(self) -> None:
        assert self._done is not None
        self._done.set_result(None)
