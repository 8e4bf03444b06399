"""A child ends with the process that started it, however that one ends. [host half: no jax]"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "JAXPAGED_PARENT_PID"
"""Variable of a child's environment: who started it. Asking for it at the start could be too late."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """See to it that this process ends when the one that started it does, and not before it says so.

    To be called first. Linux ends it when the thread that started it ends, whatever it does then; where the kernel
    cannot do that, the end of its input tells.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a whole process group gets them
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(os.environ.get(PARENT, os.getppid())):  # it ended before that
        os._exit(1)
