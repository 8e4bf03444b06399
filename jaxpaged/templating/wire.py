"""What a template's process is told and says: frames of msgpack, each after its length. [host half: no jax]"""

from __future__ import annotations

from typing import Any

import msgspec

from jaxpaged.errors import PromptError, TokenizerError
from jaxpaged.frames import framed

NAME = "process of chat templates"
COMMAND = ("-m", "jaxpaged.templating.worker")
"""The process, behind `children.PYTHON`."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """The first frame: a model's templates by name, and its named special tokens."""

    templates: dict[str, str]
    special_tokens: dict[str, str]


class Render(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation. asked: further arguments of `ChatTemplates.render`. most: characters of the prompt at most.

    template: the text of another template than the model's own.
    """

    messages: list[Any]
    add_generation_prompt: bool
    most: int
    continue_final_message: bool = False
    asked: dict[str, Any] = {}
    template: str | None = None


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt, or why there is none. refused: the class of the error."""

    text: str = ""
    refused: str | None = None
    name: str = ""
    limit: str = ""
    fix: str = ""


def frame(told: Setup | Render | Rendered) -> bytes:
    """Raises PromptError for what no frame holds."""
    try:
        body = msgspec.msgpack.encode(told)
    except OverflowError:
        raise refusal("PromptError", "messages", "a whole number in them has more than 64 bits") from None
    except UnicodeError:
        raise refusal("PromptError", "messages", "they must be text that UTF-8 can hold") from None
    except RecursionError:
        raise refusal("PromptError", "messages", "they are nested too deeply") from None
    return framed(body)


def text_of(reply: Rendered) -> str:
    """The prompt. Raises PromptError or TokenizerError where there is none."""
    if reply.refused is not None:
        raise refusal(reply.refused, reply.name, reply.limit, reply.fix)
    return reply.text


def refusal(kind: str, name: str, limit: str, fix: str = "") -> PromptError | TokenizerError:
    """An error of the named class about this conversation, or about a template."""
    made = TokenizerError if kind == "TokenizerError" else PromptError
    whose = "(this conversation)" if "messages" in name else "(the model's)"
    return made(name=name, value=whose, limit=limit, fix=fix)


def too_slow(limit_s: float) -> PromptError | TokenizerError:
    """The error of a template that had to be ended."""
    return refusal("PromptError", "messages", f"the chat template takes more than {limit_s:g} s for them")


def broken() -> PromptError | TokenizerError:
    """The error of a template whose process has ended."""
    return refusal("PromptError", "messages", "the chat template broke its process, by the memory it took or otherwise")
