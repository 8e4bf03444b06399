"""The requests in handlers now: how many there are, and a way to end them from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from jaxpaged_server.refusals import AbortedError


class Flights:
    """Handlers at work, by the id of their request (several may have brought the same)."""

    def __init__(self) -> None:
        self._flights: dict[Flight, None] = {}  # bounded by the connections; a handler takes its own out

    def __len__(self) -> int:
        return len(self._flights)

    @contextmanager
    def flight(self, request_id: str) -> Iterator[Flight]:
        """Around a handler, in its task."""
        task = asyncio.current_task()
        assert task is not None, "handlers run in tasks"
        flight = Flight(request_id, task)
        self._flights[flight] = None
        try:
            yield flight
        except asyncio.CancelledError:
            if (error := flight.why()) is not None:
                raise error from None
            raise
        finally:
            del self._flights[flight]

    def abort(self, ids: Collection[str] | None = None, *, but: Flight | None = None) -> int:
        """End those of these ids, or all, but for one (whoever asks for it); returns how many."""
        found = [one for one in self._flights if one is not but and (ids is None or one.request_id in ids)]
        for flight in found:
            flight.abort()
        return len(found)


class Flight:
    """One of them. Its tokens are for the log."""

    __slots__ = ("_task", "aborted", "completion_tokens", "prompt_tokens", "request_id")

    def __init__(self, request_id: str, task: asyncio.Task[object]) -> None:
        self.request_id = request_id
        self._task = task
        self.aborted = False
        self.prompt_tokens = self.completion_tokens = 0

    def why(self) -> AbortedError | None:
        """In a handler of CancelledError: the error to go on with, None where the reader left. Cancels no more then."""
        if not self.aborted or self._task.uncancel() > 0:
            return None
        limit = "the server ended it before its end"
        return AbortedError(name="request", value=self.request_id, limit=limit, retry_after_s=1)

    def abort(self) -> None:
        """End it, once."""
        if not self.aborted:
            self.aborted = True
            self._task.cancel()
