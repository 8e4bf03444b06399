"""The forms that answers are asked to have, looked at before anything waits for them; each one once for a key.

Keys share nothing here: none waits in another one's line, or learns what it asked for, or makes it forgotten.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from jaxpaged.errors import RequestError
from jaxpaged.structured.params import StructuredOutputsParams, size_of
from jaxpaged_server.access.keys import Key
from jaxpaged_server.beside import Beside
from jaxpaged_server.engine_process.error_fields import error_of, fields_of
from jaxpaged_server.engine_process.wire import ErrorFields

MAX_BYTES = 16 * 2**20
"""Of forms that are remembered, with what was found out about them."""
_ENTRY_BYTES = 1024
"""Of one beside its texts."""

Found = ErrorFields | None
"""What is wrong with a form, with the part of its texts that an error shows."""


class Forms:
    """Says whether a grammar can be made of a form. What it has found out it remembers; where that is too much, it
    forgets of the key that has most what was not asked for the longest.

    look: raises RequestError for a form of which none can be made; any thread may call it. close: ends what it needs.
    shared: whether there are several keys.
    """

    def __init__(
        self,
        look: Callable[[StructuredOutputsParams], object],
        *,
        close: Callable[[], object] = lambda: None,
        threads: int = 2,
        most_bytes: int = MAX_BYTES,
        shared: Callable[[], bool] = lambda: False,
    ) -> None:
        self._look = look
        self._close = close
        self._most_bytes = most_bytes
        self._beside = Beside(threads, name="grammar", shared=shared)
        self._shares: dict[str, _Share] = {}  # by the names of keys
        self._at_work: dict[tuple[str, StructuredOutputsParams], _Work] = {}

    @property
    def num_bytes(self) -> int:
        """Of what is remembered, at most."""
        return sum(share.num_bytes for share in self._shares.values())

    async def check(self, key: Key, form: StructuredOutputsParams) -> None:
        """Raise RequestError for a form that answers cannot be held to, QueueFullError where too much of this key waits
        to be read."""
        share = self._shares.get(key.name)
        if share is not None and form in share.found:
            share.found.move_to_end(form)
            found = share.found[form]
        else:
            found = await self._wait(key, form)
        if found is not None:
            raise error_of(found)

    async def _wait(self, key: Key, form: StructuredOutputsParams) -> Found:
        """For the one look at it that all of a key who ask at the same time wait for; what nobody waits for is not
        begun."""
        name = key.name, form
        work = self._at_work.get(name)
        if work is None:
            work = self._at_work[name] = _Work(asyncio.create_task(self._check(key, form)))
        work.waiting += 1
        try:
            return await asyncio.shield(work.task)
        finally:
            work.waiting -= 1
            if not work.waiting:
                work.task.cancel()
                if self._at_work.get(name) is work:
                    del self._at_work[name]

    async def _check(self, key: Key, form: StructuredOutputsParams) -> Found:
        found = await self._beside.do(key, size_of(form), lambda: self._fault(form))
        self._shares.setdefault(key.name, _Share()).add(form, found)
        while self.num_bytes > self._most_bytes:
            largest = max(self._shares, key=lambda name: self._shares[name].num_bytes)
            self._shares[largest].forget_oldest()
            if not self._shares[largest].found:
                del self._shares[largest]
        return found

    def _fault(self, form: StructuredOutputsParams) -> Found:
        try:
            self._look(form)
        except RequestError as error:
            return fields_of(error)
        return None

    async def close(self) -> None:
        """End the threads, and what `look` needs."""
        self._beside.close()
        await asyncio.to_thread(self._close)  # a form may be looked at to its end


@dataclass(slots=True)
class _Work:
    """A look at a form, and how many wait for it."""

    task: asyncio.Task[Found]
    waiting: int = 0


@dataclass(slots=True)
class _Share:
    """What is remembered of one key's forms, those asked for last at the end."""

    found: OrderedDict[StructuredOutputsParams, Found] = field(default_factory=OrderedDict)
    num_bytes: int = 0

    def add(self, form: StructuredOutputsParams, found: Found) -> None:
        self.found[form] = found
        self.num_bytes += _bytes(form)

    def forget_oldest(self) -> None:
        oldest, _ = self.found.popitem(last=False)
        self.num_bytes -= _bytes(oldest)


def _bytes(form: StructuredOutputsParams) -> int:
    """At most; a character has up to four, and a text of its own a head."""
    return _ENTRY_BYTES + 4 * size_of(form) + 64 * len(form.choice or ())
