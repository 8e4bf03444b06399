"""The parent's end: a few children, started when first needed, killed when they take too long, started again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from jaxpaged.errors import PromptError, TokenizerError
from jaxpaged_server.access.keys import Key
from jaxpaged_server.children import PYTHON, child_environment
from jaxpaged_server.templating.worker import Render, Rendered
from jaxpaged_server.turns import Turns

_START_S = 20.0
"""Seconds that a child may take to start, beside the time of the template itself."""


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
        self._folder = folder
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
        variables: dict[str, Any],
        most: int,
        template: str | None = None,
    ) -> str:
        """The prompt of a conversation. Raises PromptError and TokenizerError as `ChatTemplates.render` does.

        PromptError too where it takes too long, too much memory, or makes more than `most` characters; QueueFullError
        where too much of this key waits.
        """
        asked = _frame(
            Render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                variables=variables,
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
        reply = await asyncio.shield(work)
        if reply.refused is not None:
            raise _refusal(reply.refused, reply.name, reply.limit, reply.fix)
        return reply.text

    async def _render(self, asked: bytes) -> Rendered:
        """One rendering, to its end. Raises PromptError."""
        fresh = not self._idle
        child = await self._start() if fresh else self._idle.pop()
        try:
            async with asyncio.timeout(self._limit_s + (_START_S if fresh else 0.0)):
                reply = await self._ask(child, asked)
        except TimeoutError:
            await _kill(child)
            limit = f"the chat template takes more than {self._limit_s:g} s for them"
            raise _refusal("PromptError", "messages", limit) from None
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.DecodeError):
            await _kill(child)
            limit = "the chat template broke its process, by the memory it took or otherwise"
            raise _refusal("PromptError", "messages", limit) from None
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
        pipe = asyncio.subprocess.PIPE
        command = (*PYTHON, "-m", "jaxpaged_server.templating.worker", self._folder)
        # a session of its own: Ctrl-C is for the parent, whose requests still need their prompts
        return await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, env=child_environment(), start_new_session=True
        )

    async def _ask(self, child: asyncio.subprocess.Process, asked: bytes) -> Rendered:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(asked)
        await child.stdin.drain()
        length = int.from_bytes(await child.stdout.readexactly(4), "little")
        return self._decode(await child.stdout.readexactly(length))


def _frame(asked: Render) -> bytes:
    """Raises PromptError for numbers that no machine word holds."""
    try:
        body = msgspec.msgpack.encode(asked)
    except OverflowError:
        raise _refusal("PromptError", "messages", "a whole number in them has more than 64 bits") from None
    return len(body).to_bytes(4, "little") + body


def _refusal(kind: str, name: str, limit: str, fix: str = "") -> Exception:
    made = TokenizerError if kind == "TokenizerError" else PromptError
    return made(name=name, value="(this conversation)" if name == "messages" else "(the model's)", limit=limit, fix=fix)


async def _kill(child: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.wait()
