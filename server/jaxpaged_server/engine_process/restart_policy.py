"""When an engine that ended is started again. [no jax, no asyncio]"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

DELAYS_S = (1.0, 5.0, 25.0)
WINDOW_S = 600.0


class RestartPolicy:
    """At most so many restarts within a window as there are delays, each after its own. Seconds throughout."""

    def __init__(
        self,
        *,
        delays_s: Sequence[float] = DELAYS_S,
        window_s: float = WINDOW_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._delays_s, self._window_s, self._clock = tuple(delays_s), window_s, clock
        self._restarts: deque[float] = deque()  # when, within the window; no more than there are delays

    @property
    def num_recent(self) -> int:
        """Restarts within the window."""
        self._forget()
        return len(self._restarts)

    def next_delay(self) -> float | None:
        """Seconds to wait before the restart that is due now, which counts as made; None: there shall be none."""
        self._forget()
        if len(self._restarts) >= len(self._delays_s):
            return None
        self._restarts.append(self._clock())
        return self._delays_s[len(self._restarts) - 1]

    def _forget(self) -> None:
        while self._restarts and self._clock() - self._restarts[0] >= self._window_s:
            self._restarts.popleft()
