"""One engine process as its parent sees it: started with a socket pair, signalled, and always reaped. [no jax]"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
from collections.abc import Sequence

from jaxpaged.children import PYTHON
from jaxpaged_server.children import child_environment
from jaxpaged_server.engine_process.output import Output
from jaxpaged_server.engine_process.own_log import log_arguments
from jaxpaged_server.logs import LogForm

WORKER = (*PYTHON, "-m", "jaxpaged_server.engine_process.worker")
_PATIENCE_S = 1.0
_REAP_S = 10.0


class EngineProcess:
    """A child that has one end of a socket pair; the other end is `sock`, and whoever takes it closes it.

    What it logs goes to this process's stderr; so does all else that it writes, as lines of JSON where the log is of
    these (`Output`). It is in a session of its own, so that Ctrl-C reaches this process alone.
    Linux ends it when the thread that made it ends. Raises OSError where it cannot be started.
    """

    def __init__(
        self, command: Sequence[str] = WORKER, *, log_form: LogForm | None = None, faults: bool = False
    ) -> None:
        form = log_form or LogForm()
        output = self._output = Output(as_lines=form.format == "json")
        with contextlib.ExitStack() as stack:
            stack.callback(output.handed_over)
            self.sock, theirs = socket.socketpair()
            stack.callback(theirs.close)
            on_failure = stack.enter_context(contextlib.ExitStack())
            on_failure.callback(self.sock.close)
            arguments = ["--fd", str(theirs.fileno()), *(["--faults"] if faults else [])]
            self._child = subprocess.Popen(
                [*command, *arguments, *log_arguments(form, output.log)],
                stdin=subprocess.DEVNULL,
                stdout=output.stderr,
                stderr=output.stderr,
                pass_fds=[theirs.fileno(), *([] if output.log is None else [output.log])],
                env=child_environment(),
                start_new_session=True,
            )
            on_failure.pop_all()

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
        await asyncio.get_running_loop().run_in_executor(None, self._output.drain, _PATIENCE_S)
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
