"""The parent's end: a few children, started when first needed, killed when they take too long, started again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from jaxpaged.children import PYTHON
from jaxpaged.frames import LENGTH_BYTES, READY, START_S, not_started
from jaxpaged.templating.wire import COMMAND, NAME, Render, Rendered, Setup, broken, frame, text_of, too_slow
from jaxpaged.tokenize import read_templates
from jaxpaged_server.access.keys import Key
from jaxpaged_server.children import child_environment
from jaxpaged_server.turns import Turns


class TemplateRenderer:
    """Renders conversations by the templates of a model folder.

    limit_s: seconds of one rendering. workers: how many at a time; others wait, and keys take turns. shared: whether
    there are several keys.
    """

    def __init__(
        self,
        folder: str,
        *,
        limit_s: float = 1.0,
        workers: int = 2,
        shared: Callable[[], bool] = lambda: False,
    ) -> None:
        templates, special = read_templates(Path(folder))
        self._setup = frame(Setup(templates=templates, special_tokens=special))
        self._limit_s = limit_s
        self._idle: list[asyncio.subprocess.Process] = []
        self._turns = Turns(workers, shared=shared)
        self._decode = msgspec.msgpack.Decoder(Rendered).decode
        self._at_work: set[asyncio.Task[Rendered]] = set()  # no more than workers

    async def render(
        self,
        key: Key,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool = False,
        variables: dict[str, Any],
        most: int,
        template: str | None = None,
    ) -> str:
        """The prompt of a conversation. Raises PromptError and TokenizerError as `ChatTemplates.render` does.

        PromptError too where it takes too long, too much memory, or makes more than `most` characters; QueueFullError
        where too much of this key waits; ChildError where no child starts.
        """
        asked = frame(
            Render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                asked=variables,
                most=most,
                template=template,
            )
        )
        await self._turns.take(key, len(asked))
        work = asyncio.create_task(self._render(asked))
        self._at_work.add(work)
        work.add_done_callback(partial(self._ended, key))
        # a client who leaves ends the wait alone: what a child says to it must not be read by the next one, and a
        # child that is ended takes half a second to be replaced, so that clients who leave would hold up all others
        return text_of(await asyncio.shield(work))

    async def _render(self, asked: bytes) -> Rendered:
        """One rendering, to its end. Raises PromptError and ChildError."""
        child = self._idle.pop() if self._idle else await self._start()
        try:
            async with asyncio.timeout(self._limit_s):
                reply = await self._ask(child, asked)
        except TimeoutError:
            await _kill(child)
            raise too_slow(self._limit_s) from None
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.DecodeError):
            await _kill(child)
            raise broken() from None
        except BaseException:
            await _kill(child)
            raise
        self._idle.append(child)
        return reply

    def _ended(self, key: Key, work: asyncio.Task[Rendered]) -> None:
        self._at_work.discard(work)
        self._turns.give(key)
        if not work.cancelled():
            work.exception()  # seen: whoever waited for it may have left

    async def close(self) -> None:
        """End the children."""
        for work in self._at_work:
            work.cancel()
        if self._at_work:
            await asyncio.wait(self._at_work)
        for child in self._idle:
            await _kill(child)
        self._idle.clear()

    async def _start(self) -> asyncio.subprocess.Process:
        """A child that waits for conversations. Raises ChildError."""
        pipe = asyncio.subprocess.PIPE
        try:
            # a session of its own: Ctrl-C is for the parent, whose requests still need their prompts
            child = await asyncio.create_subprocess_exec(
                *PYTHON, *COMMAND, stdin=pipe, stdout=pipe, env=child_environment(), start_new_session=True
            )
        except OSError as error:
            raise not_started(NAME, str(error)) from error
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            async with asyncio.timeout(START_S):
                child.stdin.write(self._setup)
                await child.stdin.drain()
                await child.stdout.readexactly(len(READY))
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            await _kill(child)
            raise not_started(NAME, type(error).__name__) from None
        except BaseException:
            await _kill(child)
            raise
        return child

    async def _ask(self, child: asyncio.subprocess.Process, asked: bytes) -> Rendered:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(asked)
        await child.stdin.drain()
        length = int.from_bytes(await child.stdout.readexactly(LENGTH_BYTES), "little")
        return self._decode(await child.stdout.readexactly(length))


async def _kill(child: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.wait()
