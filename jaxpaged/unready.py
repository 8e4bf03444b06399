"""Submissions whose grammars are still read. [host half: no jax]

They are neither queued nor running: the scheduler hears of them when no step has to wait for one of their masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait

from jaxpaged.errors import GrammarError
from jaxpaged.request import FinishReason, Request, RequestState
from jaxpaged.structured.constraint import GrammarConstraint

MAX_WAIT_S = 30.0
"""Seconds for which a submission is kept. One form takes a second or two; before it may be others."""
_NAP_S = 0.005


class Unready:
    """Submissions that are kept aside, oldest first. Not thread-safe. Each leaves it: by its grammar, by an abort, or
    after `MAX_WAIT_S`, whatever the threads do that read.

    clock: of the requests' arrivals.
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: list[list[Request]] = []  # of one prompt each

    def __bool__(self) -> bool:
        return bool(self._kept)

    def __contains__(self, request_id: object) -> bool:
        return any(request.id == request_id for requests in self._kept for request in requests)

    def __len__(self) -> int:
        return sum(map(len, self._kept))

    def add(self, requests: Sequence[Request]) -> bool:
        """Keep the requests of one prompt, if one of their grammars is not read yet; else False."""
        if all(form.is_ready for request in requests for form in _forms(request)):
            return False
        self._kept.append([*requests])
        return True

    def leave(self, request_id: str, reason: FinishReason) -> bool:
        """End a request that is kept here; others of its prompt stay. False where it is not here."""
        for requests in self._kept:
            for request in requests:
                if request.id == request_id:
                    requests.remove(request)
                    request.state, request.finish = RequestState.FINISHED, reason
                    for form in _forms(request):
                        form.drop()
                    self._kept = [kept for kept in self._kept if kept]
                    return True
        return False

    def take(self, *, idle: bool) -> list[list[Request]]:
        """The submissions that may be queued now. idle: there is nothing else to do than to wait a few milliseconds.

        One that was kept for too long is among them: its first mask ends it, with an error that says so.
        """
        forms = [form for requests in self._kept for request in requests for form in _forms(request)]
        if idle:
            wait([form.made for form in forms], timeout=_NAP_S, return_when=FIRST_COMPLETED)
        now, taken, kept = self._clock(), list[list[Request]](), list[list[Request]]()
        for requests in self._kept:
            late = [form for request in requests for form in _forms(request) if not form.is_ready]
            if late and now - requests[0].arrival_s > MAX_WAIT_S:
                for form in late:
                    form.give_up(_late())
                late = []
            (kept if late else taken).append(requests)
        self._kept = kept
        return taken


def _forms(request: Request) -> list[GrammarConstraint]:
    return [one for one in request.constraints if isinstance(one, GrammarConstraint)]


def _late() -> GrammarError:
    limit = f"its grammar was not read within {MAX_WAIT_S:g} s, with others before it"
    return GrammarError(name="structured_outputs", value="a form", limit=limit, fix="Ask again, or for a simpler form")
