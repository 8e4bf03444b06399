"""Breaks an engine on purpose, so that tests see what becomes of it. [no jax]"""

from __future__ import annotations

import os
import threading
import time

from jaxpaged.errors import RequestError

EXIT_STATUS = 86
"""Of a process that was told to die."""


class Faults:
    """What to break: "die" at once, or in every step from now on "hang", "raise", "slow:SECONDS"; "none" mends it."""

    def __init__(self) -> None:
        self._kind = "none"
        self._delay_s = 0.0

    def set(self, argument: str) -> None:
        """Raises RequestError for a fault that there is not."""
        kind, _, value = argument.partition(":")
        try:
            self._delay_s = float(value) if kind == "slow" else 0.0
        except ValueError:
            kind = ""
        if kind not in ("none", "die", "hang", "raise", "slow"):
            raise RequestError(name="fault", value=argument, limit="it must be none, die, hang, raise or slow:SECONDS")
        if kind == "die":
            os._exit(EXIT_STATUS)
        self._kind = kind

    def before_step(self) -> None:
        """What a step meets."""
        if self._kind == "raise":
            raise RuntimeError("a fault was asked for")
        if self._kind == "hang":
            threading.Event().wait()
        if self._kind == "slow":
            time.sleep(self._delay_s)
