"""Whose work is done next where it needs a thread or a process, and there are few of these: fair between keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from jaxpaged_server.access.keys import Key
from jaxpaged_server.admission.fair_queue import Entry, FairQueue, Flow
from jaxpaged_server.refusals import QueueFullError

MAX_WAITING = 64 * 2**20
"""Characters, bytes or tokens of one key's work that may wait."""
_RETRY_S = 1

_Turn = asyncio.Future[None]


class Turns:
    """So many places for work. While there is none, the key that has had the least done, by size, goes next; where
    there are several keys, none takes the last place beside another of its own.

    `take` a place, and `give` it back when the work has ended, which may be after whoever asked for it has left.
    """

    def __init__(self, places: int, *, shared: Callable[[], bool] = lambda: False) -> None:
        """shared: whether there are several keys."""
        self._free = places
        self._places = places
        self._shared = shared
        self._queue: FairQueue[_Turn] = FairQueue()
        self._flows: dict[str, Flow[_Turn]] = {}  # of keys that have work here
        self._at_work: dict[str, int] = {}
        self._waiting: dict[str, int] = {}  # sizes

    async def take(self, key: Key, size: int) -> None:
        """Wait for a place. Raises QueueFullError where too much of this key waits."""
        waiting = self._waiting.get(key.name, 0)
        if waiting and waiting + size > MAX_WAITING:
            raise QueueFullError(
                name=f"texts of key {key.name!r} that would wait",
                value=f"{waiting + size} characters",
                limit=f"{MAX_WAITING} of a key may wait to be read",
                fix=f"Try again in {_RETRY_S} s",
                retry_after_s=_RETRY_S,
            )
        turn = asyncio.get_running_loop().create_future()
        flow = self._flows.setdefault(key.name, Flow(name=key.name))
        flow.weight = key.weight
        entry = self._queue.push(flow, turn, size)
        self._waiting[key.name] = waiting + size
        self._next()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # its turn had come
                self.give(key)
            elif entry in flow.waiting:
                self._drop(entry)
            self._forget(flow)
            raise

    def give(self, key: Key) -> None:
        """The work has ended."""
        self._free += 1
        assert self._free <= self._places, "a place was given back twice"
        flow = self._flows[key.name]
        self._at_work[key.name] -= 1
        self._queue.set_light(flow, self._at_work[key.name] == 0)
        self._next()
        self._forget(flow)

    def _next(self) -> None:
        while self._free:
            last = self._free == 1 < self._places and self._shared()
            if (entry := self._queue.next(light=last)) is None:
                return
            flow = entry.flow
            if entry.item.done():  # whoever asked has left, and is about to say so
                self._drop(entry)
                continue
            self._queue.take(entry)
            self._waiting[flow.name] -= entry.tokens
            self._free -= 1
            self._at_work[flow.name] = self._at_work.get(flow.name, 0) + 1
            self._queue.set_light(flow, False)
            entry.item.set_result(None)

    def _drop(self, entry: Entry[_Turn]) -> None:
        self._queue.remove(entry)
        self._waiting[entry.flow.name] -= entry.tokens

    def _forget(self, flow: Flow[_Turn]) -> None:
        """Nothing is kept of a key that has nothing here."""
        if not flow.waiting and not self._at_work.get(flow.name) and self._flows.get(flow.name) is flow:
            self._queue.forget(flow)
            del self._flows[flow.name], self._waiting[flow.name]
            self._at_work.pop(flow.name, None)
