"""On the path of a server and its children: notes what they open and whom they call, one file a process.

The server runs on asyncio's own event loop under it: what uvloop does is no event for Python.
"""

from __future__ import annotations

import os
import sys
from typing import Any

WATCHED = ("socket.", "open", "os.", "subprocess.", "shutil.", "urllib.", "http.", "ctypes.dlopen", "glob.", "sqlite3.")
"""Beginnings of the events that are noted."""
QUIET = frozenset({"socket.__new__", "os.putenv", "os.unsetenv"})


def watch(folder: str) -> None:
    """From now on."""
    # no name of a request's choosing, and no event: the descriptor is kept
    notes = os.open(os.path.join(folder, str(os.getpid())), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(WATCHED) and event not in QUIET:
            os.write(notes, f"{event}\t{arguments!r}\n".encode("utf-8", "backslashreplace"))

    sys.addaudithook(note)


if (folder := os.environ.get("JAXPAGED_TEST_AUDIT")) is not None:
    sys.modules["uvloop"] = None  # type: ignore[assignment]
    watch(folder)
