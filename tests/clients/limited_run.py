"""A command with a time limit, of which nothing is left when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path


class CommandError(Exception):
    """A command that failed or took too long, with the end of what it said."""


def limited_run(command: Sequence[str], *, log: Path, limit_s: float, env: Mapping[str, str], cwd: Path) -> None:
    """Run it with its output at the end of `log`; its process group is killed at its end. Raises CommandError."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=cwd, start_new_session=True
        )
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status != 0:
        what = f"took longer than {limit_s:.0f} s" if status is None else f"ended with status {status}"
        said = log.read_text(errors="replace").splitlines()[-60:]
        raise CommandError("\n".join([f"{' '.join(command)[:200]} {what}:", *said]))
