"""One request's way through admission: it waits, it is inside, it is out. [no jax]

Policy is in `admission.py`; here is what asyncio needs of it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from jaxpaged.errors import JaxPagedError

if TYPE_CHECKING:
    from jaxpaged_server.admission.account import Account
    from jaxpaged_server.admission.admission import Admission
    from jaxpaged_server.admission.fair_queue import Entry


class TicketState(Enum):
    WAITING = "waiting"
    INSIDE = "inside"
    OUT = "out"


@dataclass(slots=True, eq=False, kw_only=True)
class Ticket:
    """Whoever has one releases it on every path, best by `with`. Times are the admission's clock's. Not thread-safe."""

    admission: Admission
    account: Account
    prompt_tokens: int
    rows: int = 1
    """Rows of the engine that it takes: the beams of a search go in together."""
    came_s: float
    deadline_s: float | None
    state: TicketState = TicketState.WAITING
    entered_s: float | None = None
    """When its turn came; None before."""
    started: bool = False
    """Whether a first token has come."""
    error: JaxPagedError | None = None
    """Why it left the queue without a turn."""
    entry: Entry[Ticket] | None = None
    _future: asyncio.Future[None] | None = None

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    async def turn(self) -> None:
        """Wait until the request may go to the engine; for one task.

        Raises DeadlineError, or what `Admission.abort_all` was given. The ticket is released then, and when the task
        is cancelled here.
        """
        if self.state is TicketState.WAITING:
            await self._wait()
        if self.error is not None:
            raise self.error
        assert self.state is TicketState.INSIDE, "a ticket that was released has no turn"

    def charge(self, output_tokens: int) -> None:
        """Note new tokens of the answer, each once; the first ones also say that the engine has begun with it."""
        self.admission.charge(self, output_tokens)

    def release(self) -> None:
        """Leave, from wherever it is. Does nothing the second time."""
        self.admission.release(self)

    def wake(self) -> None:
        """Let `turn` return: state or error has changed."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def _wait(self) -> None:
        assert self._future is None, "another task waits for this turn"
        loop = asyncio.get_running_loop()
        self._future = loop.create_future()
        timer = None
        if self.deadline_s is not None:
            left_s = self.deadline_s - self.admission.clock()
            timer = loop.call_later(max(0.0, left_s), self.admission.expire, self)
        try:
            await self._future
        except BaseException:
            # cancelled; its turn may have come in the meantime, and then the place goes to the next one
            self.release()
            raise
        finally:
            self._future = None
            if timer is not None:
                timer.cancel()
