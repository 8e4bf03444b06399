"""The child's end of `asked_child`: answers frames, one at a time, until its input ends. [host half: no jax]

Its memory is capped; its time by the clock is the parent's affair, who kills it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from jaxpaged.frames import READY, next_frame
from jaxpaged.parent import end_with_parent

MEMORY_CAP = 512 * 1024 * 1024
"""Bytes of address space beyond what the process has when it is ready."""


def answer_frames(begin: Callable[[bytes], Callable[[bytes], bytes]]) -> int:
    """Serve stdin until its end; returns the exit status. begin: makes of the first frame's body what answers those of
    the others, with a frame each."""
    end_with_parent()  # what it is asked need not end by itself
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing else may write between the frames
    if (told := next_frame(sys.stdin.buffer)) is None:
        return 0
    answer = begin(told)
    _cap_memory()
    output.write(READY)
    output.flush()
    while (told := next_frame(sys.stdin.buffer)) is not None:
        output.write(answer(told))
        output.flush()
    return 0


def _cap_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # not a Unix, or no such figure there
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        cap = pages * resource.getpagesize() + MEMORY_CAP
        resource.setrlimit(resource.RLIMIT_AS, (cap, cap))
