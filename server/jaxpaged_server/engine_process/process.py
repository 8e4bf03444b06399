"""One engine process as its parent sees it: started with a socket pair, signalled, and always reaped. [no jax]"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Sequence

from jaxpaged_server.children import PYTHON, child_environment

WORKER = (*PYTHON, "-m", "jaxpaged_server.engine_process.worker")
_PATIENCE_S = 1.0
_REAP_S = 10.0
_STDERR = 2


class EngineProcess:
    """A child that has one end of a socket pair; the other end is `sock`, and whoever takes it closes it.

    Its output goes to this process's stderr. It is in a session of its own, so that Ctrl-C reaches this process alone.
    Linux ends it when the thread that made it ends. Raises OSError where it cannot be started.
    """

    def __init__(self, command: Sequence[str] = WORKER, *, faults: bool = False) -> None:
        self.sock, theirs = socket.socketpair()
        try:
            arguments = ["--fd", str(theirs.fileno()), "--parent", str(os.getpid()), *(["--faults"] if faults else [])]
            self._child = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,
                pass_fds=[theirs.fileno()],
                env=child_environment(),
                start_new_session=True,
            )
        except BaseException:
            self.sock.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        return self._child.pid

    def dump_stacks(self) -> None:
        """Let it write the stacks of all its threads to stderr."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        """End it, whatever it does."""
        if self._child.poll() is None:
            self._child.kill()

    async def reap(self) -> str:
        """How it ended. One that is about to end has a moment for it, so that its own status is told; then `kill`."""
        status = await self._wait(_PATIENCE_S)
        if status is None:
            self.kill()
            status = await self._wait(_REAP_S)
        if status is None:  # a driver holds it; it is reaped when the next child is made
            return f"process {self.pid} does not end though it was killed"
        if status < 0:
            return f"process {self.pid} was ended by {signal.Signals(-status).name}"
        return f"process {self.pid} ended with status {status}"

    async def _wait(self, timeout_s: float) -> int | None:
        """Its status; None where it has not ended in time."""
        try:
            return await asyncio.get_running_loop().run_in_executor(None, self._child.wait, timeout_s)
        except subprocess.TimeoutExpired:
            return None
