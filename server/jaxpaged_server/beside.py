"""Work that is not done on the event loop: in a few threads, at which keys take turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from jaxpaged_server.access.keys import Key
from jaxpaged_server.turns import Turns

Result = TypeVar("Result")


class Beside:
    """Threads beside the event loop. name: of the threads; shared: whether there are several keys."""

    def __init__(self, threads: int, *, name: str, shared: Callable[[], bool] = lambda: False) -> None:
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)
        self._turns = Turns(threads, shared=shared)

    async def do(self, key: Key, size: int, work: Callable[[], Result]) -> Result:
        """Do something for a key when its turn comes. size: of what it reads, in characters, tokens or the like.

        It is done to its end even where whoever asked has left. Raises what it raises, and QueueFullError where too
        much of this key waits.
        """
        loop = asyncio.get_running_loop()
        await self._turns.take(key, size)
        try:
            done = self._threads.submit(work)
        except BaseException:
            self._turns.give(key)
            raise

        def give(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended before the thread did
                loop.call_soon_threadsafe(self._turns.give, key)

        done.add_done_callback(give)  # not when whoever asked has left: the thread works on
        return await asyncio.wrap_future(done)

    def close(self) -> None:
        """Take no more, and wait for nothing."""
        self._threads.shutdown(wait=False, cancel_futures=True)
