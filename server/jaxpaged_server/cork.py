"""Writes of one turn of the event loop, sent together: one system call a connection, one after another.

A step of the engine wakes a handler for every stream. Sent at once, each event would be a system call between two
pieces of Python, and a stream's last event, its end and the end of its body would be three.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

Buffer = bytes | bytearray | memoryview
_MOST_BYTES = 1 << 16
"""Held for one connection; a handler that sends more in one turn must see its reader's pace."""


class Cork:
    """Holds what its transports write until the handlers of this turn have run. Of one event loop."""

    def __init__(self) -> None:
        self._holding: list[CorkedTransport] = []

    def transport(self, inner: asyncio.Transport) -> CorkedTransport:
        """In front of a connection's own."""
        return CorkedTransport(inner, self)

    def hold(self, transport: CorkedTransport) -> None:
        """Let it flush soon."""
        if not self._holding:
            asyncio.get_running_loop().call_soon(self._pull)
        self._holding.append(transport)

    def _pull(self) -> None:
        holding, self._holding = self._holding, []
        for transport in holding:
            transport.flush()


class CorkedTransport(asyncio.Transport):
    """A transport that writes a little later. Closing it sends what is held; aborting it does not."""

    def __init__(self, inner: asyncio.Transport, cork: Cork) -> None:
        super().__init__()
        self._inner, self._cork = inner, cork
        self._held: list[bytes] = []
        self._num_bytes = 0

    def flush(self) -> None:
        """Write what is held."""
        held, self._held, self._num_bytes = self._held, [], 0
        if held and not self._inner.is_closing():
            self._inner.write(held[0] if len(held) == 1 else b"".join(held))

    def write(self, data: Buffer) -> None:
        if not self._held:
            self._cork.hold(self)
        self._held.append(bytes(data))  # no copy of what is bytes; the caller may change the rest
        self._num_bytes += len(data)
        if self._num_bytes > _MOST_BYTES:
            self.flush()

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        self.flush()
        self._inner.write_eof()

    def close(self) -> None:
        self.flush()
        self._inner.close()

    def abort(self) -> None:
        self._held.clear()
        self._inner.abort()

    def get_write_buffer_size(self) -> int:
        return self._num_bytes + self._inner.get_write_buffer_size()

    # The rest is the connection's own.

    def can_write_eof(self) -> bool:
        return self._inner.can_write_eof()

    def is_closing(self) -> bool:
        return self._inner.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._inner.get_extra_info(name, default)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._inner.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._inner.set_write_buffer_limits(high, low)

    def is_reading(self) -> bool:
        return self._inner.is_reading()

    def pause_reading(self) -> None:
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        self._inner.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._inner.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._inner.get_protocol()
