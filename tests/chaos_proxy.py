"""A TCP proxy that does to a connection what networks and clients do: delays, cuts, resets, crumbs, silence.

Use as `async with ChaosProxy(host, port, plan) as proxy`, and connect to `proxy.port`. The plan says for each
connection, by its number from 0, what happens on the way up (to the server) and on the way down (to the client).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: close() sends RST, not FIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What happens to one direction. Byte counts are of this direction, from the start of the connection.

    delay_s: before each piece. bytes_per_s: no faster than this. piece: no more bytes at once. swap: of each two pieces
    the second goes first, which spoils the content. cut_at: after so many bytes both ways are closed. reset_at: the
    same with RST. half_close_at: after so many bytes this direction is shut, the other goes on. stall_at: after so many
    bytes nothing more is taken or given, and the connection stays.
    """

    delay_s: float = 0.0
    bytes_per_s: float | None = None
    piece: int | None = None
    swap: bool = False
    cut_at: int | None = None
    reset_at: int | None = None
    half_close_at: int | None = None
    stall_at: int | None = None

    @property
    def end_at(self) -> int | None:
        """The first byte that is not passed on."""
        ends = [at for at in (self.cut_at, self.reset_at, self.half_close_at, self.stall_at) if at is not None]
        return min(ends, default=None)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """The data in the pieces and the order in which it is passed on."""
        size = self.piece or max(len(data), 1)
        cut = [data[start : start + size] for start in range(0, len(data), size)]
        if self.swap:
            cut[: len(cut) // 2 * 2] = [each for pair in zip(cut[::2], cut[1::2], strict=False) for each in pair[::-1]]
        yield from cut


Plan = Callable[[int], tuple[Faults, Faults]]
PLAIN = Faults()


class _Over(Exception):
    """The connection is to end; reset: with RST."""

    def __init__(self, *, reset: bool) -> None:
        self.reset = reset


@dataclass
class ChaosProxy:
    """Counts what it passed on: `connections`, and bytes `up` and `down`."""

    host: str
    target_port: int
    plan: Plan = lambda number: (PLAIN, PLAIN)
    connections: int = 0
    up: int = 0
    down: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> ChaosProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.connections = self.connections, self.connections + 1
        up, down = self.plan(number)
        writers = [writer]
        reset = False
        try:
            there_reader, there = await asyncio.open_connection(self.host, self.target_port)
            writers.append(there)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pass(reader, there, up, "up"))
                ways.create_task(self._pass(there_reader, writer, down, "down"))
        except* _Over as over:
            reset = any(each.reset for each in over.exceptions if isinstance(each, _Over))
        except* OSError:  # one of the two has gone: so does the other
            pass
        finally:
            await _close(writers, reset=reset)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: Faults, way: str) -> None:
        """Pass one direction on until it ends or its faults end it."""
        left = faults.end_at
        while data := await reader.read(65536):
            if left is not None:
                data, left = data[:left], left - min(left, len(data))
            for piece in faults.pieces(data):
                if faults.delay_s or faults.bytes_per_s:
                    await asyncio.sleep(faults.delay_s + len(piece) / (faults.bytes_per_s or float("inf")))
                writer.write(piece)
                await writer.drain()
                if faults.piece:
                    await asyncio.sleep(0)  # so that pieces go out one by one
                setattr(self, way, getattr(self, way) + len(piece))
            if left == 0:
                await self._end(writer, faults)
                return
        with contextlib.suppress(OSError):  # it may be closed already
            writer.write_eof()

    async def _end(self, writer: asyncio.StreamWriter, faults: Faults) -> None:
        match faults.end_at:
            case faults.cut_at:
                raise _Over(reset=False)
            case faults.reset_at:
                raise _Over(reset=True)
            case faults.half_close_at:
                writer.write_eof()
            case _:
                await asyncio.Event().wait()


async def _close(writers: list[asyncio.StreamWriter], *, reset: bool) -> None:
    for writer in writers:
        if reset and (sock := writer.get_extra_info("socket")) is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        writer.close()
    for writer in writers:
        with contextlib.suppress(OSError):
            await writer.wait_closed()
