"""The child: renders conversations, one at a time, until its input ends. [host half: no jax]

Its memory is capped; its time is the parent's affair, who kills it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec

from jaxpaged.chat_template import ChatTemplates
from jaxpaged.errors import JaxPagedError
from jaxpaged.parent import end_with_parent
from jaxpaged.templating.wire import LENGTH_BYTES, READY, Render, Rendered, Setup, frame

MEMORY_CAP = 512 * 1024 * 1024
"""Bytes of address space beyond what the process has when it is ready."""


def main() -> int:
    """Serve stdin until its end."""
    end_with_parent()  # a template need not end by itself
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing else may write between the frames
    if (told := _next(sys.stdin.buffer)) is None:
        return 0
    setup = msgspec.msgpack.decode(told, type=Setup)
    own, decode = ChatTemplates(setup.templates, setup.special_tokens), msgspec.msgpack.Decoder(Render).decode
    _cap_memory()
    output.write(READY)
    output.flush()
    while (told := _next(sys.stdin.buffer)) is not None:
        output.write(frame(_render(own, setup.special_tokens, decode(told))))
        output.flush()
    return 0


def _next(stream: BinaryIO) -> bytes | None:
    """The body of the next frame, None at the end."""
    header = stream.read(LENGTH_BYTES)
    length = int.from_bytes(header, "little")
    body = stream.read(length) if len(header) == LENGTH_BYTES else b""
    return body if len(header) == LENGTH_BYTES and len(body) == length else None


def _render(own: ChatTemplates, special: dict[str, str], asked: Render) -> Rendered:
    templates = own if asked.template is None else ChatTemplates({"default": asked.template}, special)
    try:
        text = templates.render(
            asked.messages,
            add_generation_prompt=asked.add_generation_prompt,
            continue_final_message=asked.continue_final_message,
            **asked.asked,
        )
    except JaxPagedError as error:
        return Rendered(refused=type(error).__name__, name=error.name, limit=error.limit[:500], fix=error.fix)
    except MemoryError:
        return Rendered(refused="PromptError", name="messages", limit="the chat template takes too much memory")
    except Exception as error:  # as of messages nested too deeply, or of a template that no compiler takes
        limit = f"the chat template fails on them with {type(error).__name__}"
        return Rendered(refused="PromptError", name="messages", limit=limit)
    if len(text) > asked.most:
        limit = f"the chat template makes more than {asked.most} characters of them"
        return Rendered(refused="PromptError", name="messages", limit=limit)
    try:
        text.encode()
    except UnicodeEncodeError:
        return Rendered(refused="PromptError", name="messages", limit="the chat template makes no text of them")
    return Rendered(text=text)


def _cap_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # not a Unix, or no such figure there
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        cap = pages * resource.getpagesize() + MEMORY_CAP
        resource.setrlimit(resource.RLIMIT_AS, (cap, cap))


if __name__ == "__main__":
    sys.exit(main())
