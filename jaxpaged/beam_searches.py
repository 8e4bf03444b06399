"""The beam searches of an engine: between its scheduler and those who read its events. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Sequence

from jaxpaged.beams import BeamSearch
from jaxpaged.request import Request, TokenEvent
from jaxpaged.scheduler import Scheduler


class BeamSearches:
    """Searches in flight, by the ids of their requests."""

    def __init__(self) -> None:
        self._searches: dict[str, BeamSearch] = {}

    def __bool__(self) -> bool:
        return bool(self._searches)

    def add(self, requests: Sequence[Request], *, length_penalty: float) -> None:
        """Search with these requests, which the scheduler has as one submission."""
        search = BeamSearch(requests, length_penalty=length_penalty)
        self._searches.update(dict.fromkeys((request.id for request in requests), search))

    def advance(self, events: Sequence[TokenEvent], scheduler: Scheduler) -> list[TokenEvent]:
        """Take what a step led to and let the searches go on that wait. Returns the events of other requests, and what
        the searches found that are over."""
        told: list[TokenEvent] = []
        moved: dict[int, BeamSearch] = {}
        for event in events:
            search = self._searches.get(event.request_id)
            if search is None:
                told.append(event)
            else:
                search.take(event)
                moved[id(search)] = search
        for search in moved.values():
            picks = search.choose() if search.error is None and search.waits else None
            if picks:
                scheduler.choose(picks)
            elif picks is not None or search.error is not None:
                self._end(search, scheduler)
                told += search.events()
        return told

    def leave(self, request_id: str, scheduler: Scheduler) -> bool | None:
        """Nobody wants this request's answer any more: the last one to be left ends the search. None: it is no beam."""
        search = self._searches.get(request_id)
        if search is None:
            return None
        fresh = request_id not in search.unread
        search.unread.add(request_id)
        if len(search.unread) == len(search.requests):
            self._end(search, scheduler)
        return fresh

    def _end(self, search: BeamSearch, scheduler: Scheduler) -> None:
        for request in search.requests:
            del self._searches[request.id]
            scheduler.abort(request.id)
