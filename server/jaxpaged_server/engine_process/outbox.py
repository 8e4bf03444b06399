"""The child's way out: messages in order, from any thread, and nobody waits for the front end to read. [no jax]"""

from __future__ import annotations

import socket
import threading
from collections import deque

from jaxpaged_server.engine_process.wire import Message, frame


class Outbox:
    """Sends over a stream socket. What the socket does not take at once is sent on by a thread of the outbox.

    While the front end does not read, messages pile up here: those of requests in flight, which are bounded by
    their number and by the longest context. Whoever sends more than that asks `idle` first. After the front end has
    gone, everything is dropped: the reader of the socket ends the process.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._changed = threading.Condition()  # guards what follows
        self._backlog: deque[bytes] = deque()
        self._sending = False  # the thread has something to send
        self._gone = False
        threading.Thread(target=self._send_on, name="outbox", daemon=True).start()

    @property
    def idle(self) -> bool:
        """Whether the socket has taken everything so far."""
        return not self._sending

    def put(self, message: Message) -> None:
        """Send a message after all earlier ones; returns at once."""
        data = frame(message)
        with self._changed:
            if self._gone:
                return
            if not self._sending:  # straight away: waking a thread would cost more than the call
                data = data[self._send_now(data) :]
                if not data:
                    return
                self._sending = True
                self._changed.notify_all()
            self._backlog.append(data)

    def flush(self, timeout_s: float) -> bool:
        """Wait until the socket has taken everything; False where it did not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._sending, timeout_s)

    def _send_now(self, data: bytes) -> int:
        """How many bytes the socket took; all of them where nobody is left to read."""
        try:
            return self._sock.send(data, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self._gone = True
            return len(data)

    def _send_on(self) -> None:
        while True:
            with self._changed:
                if not self._backlog:
                    self._sending = False
                    self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._backlog))
                data = b"".join(self._backlog)
                self._backlog.clear()
            try:
                self._sock.sendall(data)
            except OSError:
                with self._changed:
                    self._gone, self._sending = True, False
                    self._backlog.clear()
                    self._changed.notify_all()
                return
