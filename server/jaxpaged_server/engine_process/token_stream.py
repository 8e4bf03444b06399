"""One request's tokens on their way to whoever asked for them. [no jax]"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from jaxpaged.errors import EngineError, JaxPagedError
from jaxpaged_server.engine_process.wire import Abort, Finish, Item


class TokenStream:
    """What came of one request, in order; of one event loop, and read by one task.

    It holds what was not read yet: at most as many items as the request may have tokens.

        stream = supervisor.submit(ids, params)
        try:
            ended = False
            while not ended:
                items = await stream.next()
                ended = items[-1].finish is not None
        finally:
            stream.close()
    """

    __slots__ = ("_came", "_error", "_items", "_leave", "_waiter", "_wanted", "ended", "id", "times")

    def __init__(self, number: int, leave: Callable[[int, Abort | Finish], None]) -> None:
        """leave: tells the engine that nobody reads this stream any more."""
        self.id = number
        self.ended = False
        """Whether nothing more will come: its last item came (it may not be read yet), it failed, or it was left."""
        self.times: list[float] = []
        """When each of the items that `next` gave came, on the client's clock."""
        self._leave = leave
        self._items: list[Item] = []
        self._came: list[float] = []  # likewise, of those not given yet
        self._wanted = 1
        self._error: JaxPagedError | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def next(self, wanted: int = 1) -> list[Item]:
        """All that came since the last call: at least so many items, fewer where they end before; the last one has
        `finish` if the request has ended. A reader in no hurry is woken less often.

        Raises what the engine refused the request with, EngineError when the engine is gone or the stream was left; but
        first gives what came before that. Not to be asked again after the end.
        """
        while len(self._items) < wanted and not self.ended:
            assert self._waiter is None, f"two tasks read stream {self.id}"
            self._wanted = wanted
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        items, self._items = self._items, []
        self.times, self._came = self._came, []
        if not items:
            if self._error is not None:
                raise self._error
            raise AssertionError(f"stream {self.id} has been read to its end")
        return items

    def finish(self) -> None:
        """Its text has met a stop string: the request counts as done, and nothing more comes."""
        if not self.ended:
            self._leave(self.id, Finish(self.id))
            self.fail(_left(self.id))

    def close(self) -> None:
        """Abort the request unless it has ended. May be called at any time, and again."""
        if not self.ended:
            self._leave(self.id, Abort([self.id]))
            self.fail(_left(self.id))

    # For the client alone.

    def push(self, item: Item, at: float) -> None:
        """One more item, and when it came."""
        self._items.append(item)
        self._came.append(at)
        if item.finish is not None:
            self.ended = True
        elif len(self._items) < self._wanted:
            return
        self._wake()

    def fail(self, error: JaxPagedError) -> None:
        """Nothing more will come, and why."""
        self.ended, self._error = True, error
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def _left(number: int) -> EngineError:
    return EngineError(name="stream", value=number, limit="nobody reads it any more")
