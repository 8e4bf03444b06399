"""Whether an engine process still lives up to its duties. [no jax, no asyncio]"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields

from jaxpaged.errors import ConfigError
from jaxpaged_server.engine_process.wire import Beat


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchLimits:
    """How long what may take, in seconds. Raises ConfigError.

    start_s: without a word while it starts; a large program may take minutes to compile. silence_s: without a word once
    it is ready; beats come every 250 ms. step_s: a step; or, where that is longer, step_factor times what a step of the
    most tokens takes, as far as steps have shown it. first_step_s: a step before any was seen. check_s: between checks.
    dump_s: for the stacks of a process that is to be killed.
    """

    start_s: float = 1800.0
    silence_s: float = 10.0
    step_s: float = 10.0
    step_factor: float = 20.0
    first_step_s: float = 300.0
    check_s: float = 0.25
    dump_s: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ConfigError(name=field.name, value=getattr(self, field.name), limit="it must be above 0")


class Watchdog:
    """Looks after one engine process: is told what was heard of it, and says what is wrong."""

    def __init__(self, limits: WatchLimits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._heard_at = self._checked_at = clock()
        self._ready = False
        self._beat: Beat | None = None

    def ready(self) -> None:
        """The start is over: beats are due from now on."""
        self._ready = True
        self._heard_at = self._clock()

    def beat(self, beat: Beat) -> None:
        """What it told last of its steps."""
        self._beat = beat

    def trouble(self, *, heard_at: float) -> str | None:
        """What is wrong, None for nothing; to be asked every `check_s`. heard_at: when it said anything last.

        Time in which nobody looked counts for nothing: then it is the front end that was held up, and what the engine
        said may still lie in the socket.
        """
        limits, now = self._limits, self._clock()
        since_s, self._checked_at = now - self._checked_at, now
        self._heard_at = max(self._heard_at, heard_at)
        if since_s > 2 * limits.check_s:
            self._heard_at = min(now, self._heard_at + since_s)
        silent_s = now - self._heard_at
        allowed_s = limits.silence_s if self._ready else limits.start_s
        if silent_s > allowed_s:
            return f"nothing was heard of it for {silent_s:.1f} s; {allowed_s:g} s are allowed"
        beat = self._beat
        if beat is not None and beat.step_age_s > (allowed_s := self._step_allowed_s(beat)):
            return f"a step has not returned for {beat.step_age_s:.1f} s; {allowed_s:.1f} s are allowed"
        return None

    def _step_allowed_s(self, beat: Beat) -> float:
        limits = self._limits
        if beat.full_step_s == 0:
            return limits.first_step_s
        return max(limits.step_s, limits.step_factor * beat.full_step_s)
