"""What the engine's process writes beside its log, as lines of the server's: libraries in C++, stack dumps. [no jax]

Where lines of text are wanted it has this process's stderr, and nothing is between. Lines of JSON it has only if
somebody makes them, and a process that hangs or dies cannot: so its stderr is a pipe, and a thread here reads it. Its
own log goes past the pipe, to where this process's goes.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import IO

_STDERR = 2
_MAX_LINE = 2048
"""Characters of a line; what is longer is told as several, of which the log cuts none."""
_log = logging.getLogger(__name__)


class Output:
    """One child's. stderr: for its stdout and stderr; log: for its log, None where that is its stderr, too."""

    def __init__(self, *, as_lines: bool) -> None:
        self.stderr = _STDERR
        self.log: int | None = None
        self._reader: threading.Thread | None = None
        if as_lines:
            self.log = os.dup(_STDERR)
            reading, self.stderr = os.pipe()
            file = open(reading, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            self._reader = threading.Thread(target=_tell, args=(file,), name="engine output", daemon=True)
            self._reader.start()

    def handed_over(self) -> None:
        """The child has its ends, or there will be none: close this process's."""
        if self.log is not None:
            os.close(self.log)
            os.close(self.stderr)
            self.log, self.stderr = None, _STDERR

    def drain(self, timeout_s: float) -> None:
        """Wait until all is told that it wrote before its end; a program that it started may hold the pipe open."""
        if self._reader is not None:
            self._reader.join(timeout_s)


def _tell(file: IO[str]) -> None:
    with file:
        while line := file.readline(_MAX_LINE):
            if text := line.rstrip():
                _log.warning("%s", text)
