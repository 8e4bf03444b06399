"""What form an answer is asked to have. [host half: no jax]"""

from __future__ import annotations

import json as json_text
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from jaxpaged.bounded_json import parse_json
from jaxpaged.errors import ParameterError

MAX_CHARACTERS = 1 << 18
"""Of a schema, an expression, a grammar or a tag's text. The largest schema of a known API has a fifth of it."""
MAX_CHOICES = 4096
KINDS = ("json", "json_object", "regex", "choice", "grammar", "structural_tag")
"""The forms there are: exactly one is asked for."""
_FLAGS = ("disable_any_whitespace", "disable_additional_properties")


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputsParams:
    """One form out of six, and how JSON is laid out. Names and meanings are vLLM's.

    Objects are kept as their JSON texts. Raises ParameterError naming the field, its value and the limit; whether a
    grammar can be made of it is another question: `grammar_of`.
    """

    json: str | dict[str, Any] | None = None
    """A JSON Schema, or its text: the answer is JSON that is valid by it."""
    json_object: bool | None = None
    """True: the answer is some JSON object."""
    regex: str | None = None
    """A regular expression that the whole answer matches."""
    choice: Sequence[str] | None = None
    """The texts of which the answer is one."""
    grammar: str | None = None
    """A context-free grammar, in Lark's way of writing or in GBNF's."""
    structural_tag: str | dict[str, Any] | None = None
    """Free text with parts between tags that have a form of their own, or its text: {"structures": [{"begin": ...,
    "schema": ..., "end": ...}], "triggers": [...]}."""
    disable_any_whitespace: bool = False
    """JSON without whitespace between its parts."""
    disable_additional_properties: bool = False
    """Objects of a schema with `properties` have no others, unless it says additionalProperties."""
    whitespace_pattern: str | None = None
    """A regular expression of what may stand between the parts of JSON, in place of a blank or a line break and an
    indentation."""

    def __post_init__(self) -> None:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            value = given or None
            raise _error("structured_outputs", value, f"exactly one of {', '.join(KINDS)} must be given")
        for name in _FLAGS:
            if not isinstance(value := getattr(self, name), bool):
                raise _error(name, value, "it must be True or False")
        if self.json_object is not None and self.json_object is not True:
            raise _error("json_object", self.json_object, "it must be True", "Leave it out for free text")
        for name in ("json", "structural_tag"):
            object.__setattr__(self, name, _object_text(name, getattr(self, name)))
        for name in ("json", "structural_tag", "regex", "grammar", "whitespace_pattern"):
            _check_text(name, getattr(self, name))
        object.__setattr__(self, "choice", _choices(self.choice))
        if self.whitespace_pattern is not None and self.disable_any_whitespace:
            limit = "disable_any_whitespace is set: there is none"
            raise _error("whitespace_pattern", self.whitespace_pattern, limit, "Give one of the two")

    @classmethod
    def of(cls, value: object) -> StructuredOutputsParams:
        """From an object with these fields, or its JSON text, as a flag has it. Raises ParameterError."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            try:
                value = parse_json(value.encode())
            except ValueError as error:
                raise _error("structured_outputs", value, f"it must be a JSON object: {error}") from None
        if not isinstance(value, Mapping):
            raise _error("structured_outputs", value, "it must be a JSON object, or a StructuredOutputsParams")
        known = [field.name for field in fields(cls)]
        for name in value:
            if name not in known:
                raise _error("structured_outputs", name, f"there is no such field. There are {', '.join(known)}")
        return cls(**value)

    @property
    def kind(self) -> str:
        """Which of the six it is."""
        return next(name for name in KINDS if getattr(self, name) is not None)


def size_of(params: StructuredOutputsParams) -> int:
    """Characters of its texts."""
    texts = [getattr(params, name) for name in ("json", "regex", "grammar", "structural_tag", "whitespace_pattern")]
    return sum(len(text) for text in (*texts, *(params.choice or ())) if text is not None)


def _object_text(name: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        raise _error(name, value, "it must be a JSON object, or the text of one")
    try:
        return json_text.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise _error(name, "an object", "it is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise _error(name, "an object", f"it must be an object that JSON can hold: {str(error)[:200]}") from None


def _check_text(name: str, text: object) -> None:
    if text is None:
        return
    if not isinstance(text, str) or not text:
        raise _error(name, text, "it must be a text, and not empty")
    if len(text) > MAX_CHARACTERS:
        raise _error(name, f"{len(text)} characters", f"at most {MAX_CHARACTERS} are read")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _error(name, text, "it must be text that UTF-8 can hold") from None


def _choices(choice: object) -> tuple[str, ...] | None:
    if choice is None:
        return None
    if isinstance(choice, str) or not isinstance(choice, Sequence) or not choice:
        raise _error("choice", choice, "it must be a list of texts, and not empty")
    if len(choice) > MAX_CHOICES:
        raise _error("choice", len(choice), f"at most {MAX_CHOICES} are read", "Give a regex or a grammar instead")
    for text in choice:
        _check_text("choice", text)
    if (characters := sum(map(len, choice))) > MAX_CHARACTERS:
        raise _error("choice", f"{characters} characters", f"at most {MAX_CHARACTERS} are read")
    return tuple(dict.fromkeys(choice))


def _error(name: str, value: object, limit: str, fix: str = "") -> ParameterError:
    return ParameterError(name=name, value=value, limit=limit, fix=fix)
