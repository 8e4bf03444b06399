"""A start's progress on its way to the front end. [no jax]"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jaxpaged.progress import Advance
from jaxpaged_server.engine_process.wire import Phase

_EVERY_S = 0.1


class PhaseTeller:
    """Tells the front end how far the start is: `Progress` over the wire, ten times a second at most."""

    def __init__(self, send: Callable[[Phase], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock = send, clock

    @contextmanager
    def track(self, phase: str, *, total: int, unit: str) -> Iterator[Advance]:
        del unit  # each phase has its own
        began = told = self._clock()
        done = 0
        self._send(Phase(phase, 0, total))

        def advance(count: int) -> None:
            nonlocal done, told
            done += count
            now = self._clock()
            if now - told >= _EVERY_S or done == total:
                told = now
                left_s = (now - began) / done * max(0, total - done) if done else None
                self._send(Phase(phase, done, total, left_s))

        yield advance
