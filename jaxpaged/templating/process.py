"""The parent's end, for programs that wait: one child, started when it is first needed. [host half: no jax]"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from jaxpaged.chat_messages import plain, plain_messages
from jaxpaged.chat_template import DEFAULT, ChatTemplates
from jaxpaged.children import PYTHON, environment_of, start_from_own_thread
from jaxpaged.templating.wire import (
    COMMAND,
    LENGTH_BYTES,
    READY,
    START_S,
    Render,
    Rendered,
    Setup,
    broken,
    frame,
    not_started,
    text_of,
    too_slow,
)

_READ_BYTES = 1 << 16


class CappedTemplates:
    """`ChatTemplates` whose templates may neither take for ever nor fill the memory: a child that does is killed, and
    the next conversation gets another one. Calls may come from several threads; one is served at a time.

    limit_s: seconds of one rendering. most_characters: of a prompt.
    """

    def __init__(
        self,
        templates: Mapping[str, str],
        special_tokens: Mapping[str, str],
        *,
        limit_s: float = 10.0,
        most_characters: int = 1 << 26,
    ) -> None:
        self._setup = Setup(templates=dict(templates), special_tokens=dict(special_tokens))
        self._limit_s = limit_s
        self._most = most_characters
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._decode = msgspec.msgpack.Decoder(Rendered).decode

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._setup.templates)

    @property
    def source(self) -> str | None:
        """The default template's text."""
        return self._setup.templates.get(DEFAULT)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool = False,
        **asked: Any,
    ) -> str:
        """As `ChatTemplates.render`. Raises PromptError, too, for a template that takes too long or too much memory, or
        makes more than `most_characters`; ChildError where the process of templates does not start."""
        if not self.names:
            ChatTemplates({}, {}).render(messages, add_generation_prompt=add_generation_prompt)  # tells what is missing
        told = frame(
            Render(
                messages=plain_messages(messages),
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                asked={name: plain(value, name) for name, value in asked.items()},
                most=self._most,
            )
        )
        with self._lock:
            return text_of(self._ask(told))

    def close(self) -> None:
        """End the child, if there is one; the next conversation starts another."""
        with self._lock:
            self._drop()

    def _ask(self, told: bytes) -> Rendered:
        try:
            child = self._ready_child()
            until = time.monotonic() + self._limit_s
            self._write(child, told)
            header = self._read(child, LENGTH_BYTES, until)
            return self._decode(self._read(child, int.from_bytes(header, "little"), until))
        except TimeoutError:
            self._drop()
            raise too_slow(self._limit_s) from None
        except (EOFError, ConnectionError, msgspec.DecodeError):
            self._drop()
            raise broken() from None
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
            self._write(child, frame(self._setup))
            self._read(child, len(READY), time.monotonic() + START_S)
        except (EOFError, OSError) as error:  # of these is TimeoutError
            raise not_started(START_S, str(error) or type(error).__name__) from error
        return child

    def _start(self) -> subprocess.Popen[bytes]:
        environment = environment_of(Path(__file__).parents[2])
        child, let_go = start_from_own_thread([*PYTHON, *COMMAND], env=environment)
        self._end = weakref.finalize(self, _end, child, let_go)
        return child

    def _drop(self) -> None:
        if self._child is not None:
            self._end()
            self._child = None

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


def _end(child: subprocess.Popen[bytes], let_go: Callable[[], None]) -> None:
    child.kill()
    with contextlib.suppress(OSError):  # bytes that it never read
        child.__exit__(None, None, None)
    let_go()
