"""What the process of grammars is told and says: frames of msgpack, each after its length. [host half: no jax]"""

from __future__ import annotations

import msgspec

from jaxpaged.errors import GrammarError
from jaxpaged.frames import framed
from jaxpaged.structured.params import StructuredOutputsParams

COMMAND = ("-m", "jaxpaged.structured.worker")
"""The process, behind `children.PYTHON`."""
CPU_S = 1.0
"""Seconds of a processor for one form: whoever checks it so lets in what takes another thread as long again."""
_SHOWN = 200
"""Characters of a value that an error shows."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """The first frame, of the tokenizer. From its answer on time counts.

    special: the special tokens by their texts. tokens: the bytes of all tokens, by id. no_text: those that are no text.
    """

    special: dict[str, int]
    tokens: list[bytes]
    no_text: list[int]


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A form to make a grammar of."""

    params: StructuredOutputsParams


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The grammar, or the fields of a GrammarError; value: as it is shown."""

    grammar: str | None = None
    name: str = ""
    value: str = ""
    limit: str = ""
    fix: str = ""


class Shown(str):
    """A value that is known only as it was shown, and is shown so again."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def frame(told: Setup | Ask | Answer) -> bytes:
    """The bytes of a message."""
    return framed(msgspec.msgpack.encode(told))


def answer_of(error: GrammarError) -> Answer:
    """An error taken apart."""
    return Answer(name=error.name, value=repr(error.value)[:_SHOWN], limit=error.limit, fix=error.fix)


def grammar_in(answer: Answer) -> str:
    """The grammar. Raises GrammarError where there is none."""
    if answer.grammar is None:
        raise GrammarError(name=answer.name, value=Shown(answer.value), limit=answer.limit, fix=answer.fix)
    return answer.grammar
