"""The dialect of a model: its formats of calls and of reasoning, by vLLM's names for them. [host half: no jax]"""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpaged.dialects.call_format import CallFormat
from jaxpaged.dialects.call_formats import CALL_FORMATS
from jaxpaged.dialects.channels import CHANNEL_MARKS
from jaxpaged.dialects.parser import DialectParser
from jaxpaged.dialects.reasoning_format import REASONING_FORMATS, ReasoningFormat
from jaxpaged.dialects.tools import Tools
from jaxpaged.errors import ConfigError

_SHORT_ID = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What to look for in answers; None for what is not looked for."""

    calls: CallFormat | None = None
    reasoning: ReasoningFormat | None = None

    @property
    def marks(self) -> frozenset[str]:
        """All markup. Where a model has special tokens for it, these must be in the text, which leaves others out."""
        forms = [form for form in (self.calls, self.reasoning) if form is not None]
        channels = CHANNEL_MARKS if any(form.channels for form in forms) else ()
        return frozenset((*(mark for form in forms for mark in form.marks), *channels))

    def parser(
        self, tools: Mapping[str, Mapping[str, Any]], *, prompt: str, calls: CallFormat | None = None
    ) -> DialectParser:
        """A parser of one answer to `prompt`.

        tools: functions that may be called, by name, each with the schema of its arguments.
        calls: another format than the model's own, where a grammar makes the model write it.
        """
        form = calls or (self.calls if tools else None)
        is_short = self.calls is not None and self.calls.ids == "short"
        reasoning = self.reasoning
        if calls is not None and reasoning is not None and reasoning.channels:
            reasoning = None  # the grammar leaves no room for it
        return DialectParser(
            calls=form,
            reasoning=reasoning,
            tools=Tools(parameters=tools),
            prompt=prompt,
            new_id=_short_id if is_short else _call_id,
        )


def dialect_of(*, tool_call_parser: str | None, reasoning_parser: str | None) -> Dialect:
    """The dialect of these names. Raises ConfigError for a name that nobody has."""
    return Dialect(
        calls=_named("tool_call_parser", tool_call_parser, CALL_FORMATS),
        reasoning=_named("reasoning_parser", reasoning_parser, REASONING_FORMATS),
    )


def _named(option: str, name: str | None, formats: Mapping[str, Any]) -> Any:
    if name in (None, "", "none"):
        return None
    if name not in formats:
        raise ConfigError(name=option, value=name, limit=f"it must be one of {', '.join(sorted(formats))}")
    return formats[name]


def _call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _short_id() -> str:
    return "".join(secrets.choice(_SHORT_ID) for _ in range(9))
