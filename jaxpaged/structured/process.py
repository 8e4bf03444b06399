"""The parent's end of a process that reads grammars first: one child, started when it is first needed.
[host half: no jax]
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import msgspec

from jaxpaged.children import PYTHON, environment_of, start_from_own_thread
from jaxpaged.errors import ChildError, GrammarError
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged.structured.wire import COMMAND, CPU_S, LENGTH_BYTES, Answer, Ask, Setup, frame, grammar_in

_START_S = 20.0
"""Seconds that the process may take until it is ready."""
_READ_BYTES = 1 << 16


class GrammarProcess:
    """`grammar_of`, where what a grammar costs or breaks is a child's: one that takes too long is killed, and the next
    form gets another one. Calls may come from several threads; one is served at a time.

    limit_s: seconds of one form by the clock, whatever else the machine does; of a processor it is given `CPU_S`.
    """

    def __init__(self, setup: Setup, *, limit_s: float = 4.0) -> None:
        self._setup = frame(setup)
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._decode = msgspec.msgpack.Decoder(Answer).decode

    def grammar(self, params: StructuredOutputsParams) -> str:
        """As `grammar_of`. Raises GrammarError, too, for a form that takes too long or too much memory; ChildError
        where the process does not start."""
        with self._lock:
            answer = self._ask(params)
        return grammar_in(answer)

    def close(self) -> None:
        """End the child, if there is one; the next form starts another."""
        with self._lock:
            self._drop()

    def _ask(self, params: StructuredOutputsParams) -> Answer:
        try:
            child = self._ready_child()
            until = time.monotonic() + self._limit_s
            self._write(child, frame(Ask(params=params)))
            header = self._read(child, LENGTH_BYTES, until)
            return self._decode(self._read(child, int.from_bytes(header, "little"), until))
        except TimeoutError:
            self._drop()
            limit = f"to make a grammar of it takes more than {self._limit_s:g} s"
            raise GrammarError(name=params.kind, value=_beginning(params), limit=limit, fix="Ask for less") from None
        except (EOFError, ConnectionError, msgspec.DecodeError):
            if _ran_out_of_time(self._drop()):
                limit = f"to make a grammar of it takes more than {CPU_S:g} s of a processor"
            else:
                limit = "to make a grammar of it breaks its process, by the memory it takes or by its depth"
            raise GrammarError(name=params.kind, value=_beginning(params), limit=limit, fix="Ask for less") from None
        except BaseException:  # ctrl-C: what the child says to this must not be read by the next one
            self._drop()
            raise

    def _ready_child(self) -> subprocess.Popen[bytes]:
        """The child; another one where it has ended. Raises ChildError."""
        if self._child is not None and self._child.poll() is None:
            return self._child
        self._drop()
        try:
            child = self._child = self._start()
            self._write(child, self._setup)
            self._read(child, LENGTH_BYTES, time.monotonic() + _START_S)
        except (EOFError, OSError) as error:  # of these is TimeoutError
            raise ChildError(
                name="process of grammars",
                value=str(error) or type(error).__name__,
                limit=f"it must start within {_START_S:g} s",
                fix="Ask again when the machine has less to do; what the process wrote to stderr may tell more",
            ) from error
        return child

    def _start(self) -> subprocess.Popen[bytes]:
        environment = environment_of(Path(__file__).parents[2])
        child, let_go = start_from_own_thread([*PYTHON, *COMMAND], env=environment)
        self._end = weakref.finalize(self, _end, child, let_go)
        return child

    def _drop(self) -> int | None:
        """End the child; returns how it ended, which may have been before."""
        child, self._child = self._child, None
        if child is None:
            return None
        self._end()
        return child.returncode

    def _write(self, child: subprocess.Popen[bytes], told: bytes) -> None:
        assert child.stdin is not None
        child.stdin.write(told)
        child.stdin.flush()

    def _read(self, child: subprocess.Popen[bytes], size: int, until: float) -> bytes:
        """So many bytes of what it says. Raises TimeoutError, EOFError."""
        assert child.stdout is not None
        said = bytearray()
        while len(said) < size:
            left = until - time.monotonic()
            if left <= 0 or not select.select([child.stdout], [], [], left)[0]:
                raise TimeoutError
            data = os.read(child.stdout.fileno(), min(size - len(said), _READ_BYTES))
            if not data:
                raise EOFError
            said += data
        return bytes(said)


def _ran_out_of_time(code: int | None) -> bool:
    return hasattr(signal, "SIGPROF") and code == -signal.SIGPROF


def _beginning(params: StructuredOutputsParams) -> object:
    value = getattr(params, params.kind)
    return value[:200] if isinstance(value, str) else value


def _end(child: subprocess.Popen[bytes], let_go: Callable[[], None]) -> None:
    child.kill()
    with contextlib.suppress(OSError):  # bytes that it never read
        child.__exit__(None, None, None)
    let_go()
