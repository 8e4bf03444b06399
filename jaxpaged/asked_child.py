"""A child that is asked questions, and may neither take for ever nor fill the memory. [host half: no jax]"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from jaxpaged.children import PYTHON, environment_of, start_from_own_thread
from jaxpaged.frames import LENGTH_BYTES, READY, START_S, not_started

_READ_BYTES = 1 << 16
Answer = TypeVar("Answer", bound=msgspec.Struct)


class BrokenChildError(Exception):
    """A child has ended over a question, or said what cannot be read. code: its exit status, as `Popen` has it."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"it ended with {code}")
        self.code = code


class AskedChild(Generic[Answer]):
    """One child, started when it is first needed; another takes the place of one that has ended, or had to be ended.
    Questions may come from several threads; one is answered at a time.

    name: of the child, in errors. command: what follows `children.PYTHON`. setup: the frame that it is told first.
    answers: what its frames hold, in msgpack.
    """

    def __init__(self, name: str, command: Sequence[str], *, setup: bytes, answers: type[Answer]) -> None:
        self._name = name
        self._command = command
        self._setup = setup
        self._decode = msgspec.msgpack.Decoder(answers).decode
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, told: bytes, *, limit_s: float) -> Answer:
        """Its answer to a frame. Raises TimeoutError where it takes more than `limit_s`, BrokenChildError, and
        ChildError where it does not start; the next question gets another child then."""
        with self._lock:
            try:
                child = self._ready_child()
                until = time.monotonic() + limit_s
                _write(child, told)
                length = int.from_bytes(_read(child, LENGTH_BYTES, until), "little")
                return self._decode(_read(child, length, until))
            except (EOFError, ConnectionError, msgspec.DecodeError):
                raise BrokenChildError(self._drop()) from None
            except BaseException:  # ctrl-C, too: what the child says to this must not be read by the next one
                self._drop()
                raise

    def close(self) -> None:
        """End the child, if there is one; the next question starts another."""
        with self._lock:
            self._drop()

    def _ready_child(self) -> subprocess.Popen[bytes]:
        """The child; another one where it has ended. Raises ChildError."""
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._drop()
        try:
            child = self._process = self._start()
            _write(child, self._setup)
            _read(child, len(READY), time.monotonic() + START_S)
        except (EOFError, OSError) as error:  # of these is TimeoutError
            raise not_started(self._name, str(error) or type(error).__name__) from error
        return child

    def _start(self) -> subprocess.Popen[bytes]:
        environment = environment_of(Path(__file__).parents[1])
        child, let_go = start_from_own_thread([*PYTHON, *self._command], env=environment)
        self._end = weakref.finalize(self, _end, child, let_go)
        return child

    def _drop(self) -> int | None:
        """End the child; returns how it ended, which may have been before."""
        child, self._process = self._process, None
        if child is None:
            return None
        self._end()
        return child.returncode


def _write(child: subprocess.Popen[bytes], told: bytes) -> None:
    assert child.stdin is not None
    child.stdin.write(told)
    child.stdin.flush()


def _read(child: subprocess.Popen[bytes], size: int, until: float) -> bytes:
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


def _end(child: subprocess.Popen[bytes], let_go: Callable[[], None]) -> None:
    child.kill()
    with contextlib.suppress(OSError):  # bytes that it never read
        child.__exit__(None, None, None)
    let_go()
