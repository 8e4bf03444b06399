"""The child: renders conversations, one at a time, until its input ends. [no jax, no aiohttp]

Frames of msgpack over stdin and stdout. Its memory is capped; its time is the parent's affair, who kills it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from jaxpaged.chat_template import ChatTemplates
from jaxpaged.errors import JaxPagedError
from jaxpaged.tokenize import read_templates
from jaxpaged_server.engine_process.wire import Frames
from jaxpaged_server.parent import end_with_parent

MEMORY_CAP = 512 * 1024 * 1024
"""Bytes of address space beyond what the process has when it is ready."""


class Render(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation. template: another template than the model's own; most: characters of the prompt at most."""

    messages: list[dict[str, Any]]
    add_generation_prompt: bool
    variables: dict[str, Any]
    most: int
    template: str | None = None


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt, or why there is none. refused: the class of the error."""

    text: str = ""
    refused: str | None = None
    name: str = ""
    limit: str = ""
    fix: str = ""


def main(folder: str) -> int:
    """Serve stdin until its end."""
    end_with_parent()  # a template need not end by itself
    templates, special = read_templates(Path(folder))
    own = ChatTemplates(templates, special)
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing else may write between the frames
    _cap_memory()
    decode, frames = msgspec.msgpack.Decoder(Render).decode, Frames()
    while data := os.read(sys.stdin.fileno(), 1 << 16):
        for body in frames.push(data):
            _say(output, _render(own, special, decode(body)))
    return 0


def _render(own: ChatTemplates, special: dict[str, str], asked: Render) -> Rendered:
    templates = own if asked.template is None else ChatTemplates({"default": asked.template}, special)
    try:
        text = templates.render(asked.messages, add_generation_prompt=asked.add_generation_prompt, **asked.variables)
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


def _say(output: BinaryIO, reply: Rendered) -> None:
    body = msgspec.msgpack.encode(reply)
    output.write(len(body).to_bytes(4, "little") + body)
    output.flush()


def _cap_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # not a Unix, or no such figure there
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        cap = pages * resource.getpagesize() + MEMORY_CAP
        resource.setrlimit(resource.RLIMIT_AS, (cap, cap))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
