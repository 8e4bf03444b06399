"""Whether the load generator itself was on time: how late its event loop ran, and how busy its processor was."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass

WARN_MS = 20.0
_TICK_S = 0.01
_BUSY = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How late the event loop came back from a short sleep (ms), and its processor's share that was in use.

    Every time that is measured here may be too long by the first.
    """

    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_share: float

    @property
    def warnings(self) -> list[str]:
        """Sentences for people; none where the figures are the server's."""
        found: list[str] = []
        if self.p99_ms > WARN_MS:
            found.append(
                f"The load generator was late itself: its event loop lagged {self.p99_ms:.0f} ms at p99 "
                f"(limit {WARN_MS:.0f} ms). Times are too long by about that; use less load, or another machine for it."
            )
        if self.cpu_share > _BUSY:
            found.append(
                f"The load generator used {self.cpu_share:.0%} of a processor core: it may be the bottleneck. "
                "Rates are what it could take, not what the server could give."
            )
        return found


class LagMeter:
    """Measures `Lag` while it runs. Use as `async with`."""

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, cpu_clock: Callable[[], float] = time.process_time
    ) -> None:
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._late_s = array("d")

    async def __aenter__(self) -> LagMeter:
        self._began = self._clock(), self._cpu_clock()
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._ended = self._clock(), self._cpu_clock()

    async def _watch(self) -> None:
        while True:
            began_s = self._clock()
            await asyncio.sleep(_TICK_S)
            self._late_s.append(max(0.0, self._clock() - began_s - _TICK_S))

    def lag(self) -> Lag:
        """What was seen between entering and leaving."""
        late_ms = sorted(1000 * late for late in self._late_s) or [0.0]
        wall_s, cpu_s = (ended - began for began, ended in zip(self._began, self._ended, strict=True))
        return Lag(
            p50_ms=late_ms[(len(late_ms) - 1) // 2],
            p99_ms=late_ms[min(len(late_ms) - 1, int(0.99 * len(late_ms)))],
            max_ms=late_ms[-1],
            cpu_share=cpu_s / wall_s if wall_s > 0 else 0.0,
        )
