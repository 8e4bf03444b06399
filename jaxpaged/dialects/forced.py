"""What a grammar must hold a model to so that its answer is calls, its calls are valid, or a form comes after its
reasoning. [host half: no jax]

Grammars are structural tags, as `structured` reads them: a tree of texts, schemas and free text. Each function's schema
is a part of its own, so that references within it still mean what they meant.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxpaged.dialects.call_format import CallFormat, ObjectBody, WholeBody, Writing
from jaxpaged.dialects.channels import ANALYSIS_BEGIN, ANALYSIS_END, FINAL_BEGIN, NEXT_MESSAGE
from jaxpaged.dialects.dialect import Dialect
from jaxpaged.dialects.reasoning_format import ReasoningFormat
from jaxpaged.structured.params import KINDS, StructuredOutputsParams

_LISTED = Writing(begin='{"name": "{name}", "parameters": ', end="}", first="[", last="]", separator=", ")
_GAP: Mapping[str, Any] = {"type": "regex", "pattern": "\\n{0,2}"}
Schemas = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forced:
    """tag: the grammar. calls: how the answer is read then, where that is not as the model writes by itself."""

    tag: Mapping[str, Any]
    calls: CallFormat | None = None


def forced_calls(dialect: Dialect, schemas: Schemas, *, prompt: str, one: bool, named: bool) -> Forced:
    """Calls of these functions and nothing else, but for reasoning before them where the model's format has it.

    one: a single call. named: of the only function there is; where the model's own way to write calls has no JSON in
    it, the arguments alone are written then, and else a list of objects, as vLLM has them.
    """
    writing = dialect.calls.writing if dialect.calls is not None else None
    reading: CallFormat | None = None
    channels = dialect.calls is not None and dialect.calls.channels
    thoughts = _thoughts(dialect.reasoning, prompt, channels=channels)
    if writing is None and named:
        (name, schema), *_ = schemas.items()
        reading = CallFormat(bare=("{",), bodies=(WholeBody(name=name),))
        return Forced(tag=_sequence([*thoughts, _json(schema)]), calls=reading)
    if writing is None:
        writing = _LISTED
        reading = CallFormat(bare=("[",), bodies=(ObjectBody(arguments=("parameters",), strict=True),))
    return Forced(tag=_sequence([*thoughts, *_calls(writing, schemas, one=one)]), calls=reading)


def strict_calls(
    dialect: Dialect, schemas: Schemas, strict: Collection[str], *, prompt: str
) -> Mapping[str, Any] | None:
    """Free text whose calls have valid arguments, those of functions in `strict`, or else some object; None where calls
    cannot be told from free text before they are written."""
    writing = dialect.calls.writing if dialect.calls is not None else None
    if writing is None or not writing.trigger:
        return None
    calls = {
        "type": "triggered_tags",
        "triggers": [writing.trigger],
        "tags": [_tag(writing, name, schema) for name, schema in _loosened(schemas, strict).items()],
    }
    return _sequence([*_thoughts(dialect.reasoning, prompt, channels=False), calls])


def after_thoughts(dialect: Dialect, form: StructuredOutputsParams, *, prompt: str) -> StructuredOutputsParams:
    """The form, of what comes after the reasoning that the model's format has; the same where there is none. A grammar
    or a structural tag is that of the whole answer as it is."""
    reasoning = dialect.reasoning
    if reasoning is None:
        return form
    thoughts = _thoughts(reasoning, prompt, channels=reasoning.channels)
    if not thoughts or (asked := _asked(form)) is None:
        return form
    if reasoning.channels:
        thoughts.append({"type": "const_string", "value": FINAL_BEGIN})
    return _tagged(form, [*thoughts, asked])


def form_or_calls(
    dialect: Dialect,
    form: StructuredOutputsParams,
    schemas: Schemas,
    strict: Collection[str],
    *,
    prompt: str,
    one: bool,
) -> StructuredOutputsParams | None:
    """The form, or in its place calls and nothing else, whichever the model chooses, after the reasoning that its
    format has; None where its way to write calls has no JSON in it. A grammar or a structural tag is that of the whole
    answer as it is.

    strict, one: as in `strict_calls` and `forced_calls`.
    """
    if (asked := _asked(form)) is None:
        return form
    if dialect.calls is None or dialect.calls.writing is None:
        return None
    channels = dialect.reasoning is not None and dialect.reasoning.channels
    thoughts = _thoughts(dialect.reasoning, prompt, channels=channels)
    if thoughts and channels:
        asked = _sequence([{"type": "const_string", "value": FINAL_BEGIN}, asked])["format"]
    calls = _sequence(_calls(dialect.calls.writing, _loosened(schemas, strict), one=one))["format"]
    return _tagged(form, [*thoughts, {"type": "or", "elements": [calls, asked]}])


def _asked(form: StructuredOutputsParams) -> Mapping[str, Any] | None:
    """The form as a part of a tree; None for a grammar or a tree of its own."""
    match form.kind:
        case "json":
            return _json(json.loads(str(form.json)))
        case "json_object":
            return _json({"type": "object"})
        case "regex":
            return {"type": "regex", "pattern": form.regex}
        case "choice":
            return {"type": "or", "elements": [{"type": "const_string", "value": text} for text in form.choice or ()]}
        case _:
            return None


def _tagged(form: StructuredOutputsParams, parts: list[Mapping[str, Any]]) -> StructuredOutputsParams:
    """These parts in the form's place, JSON in them laid out as it says."""
    return replace(form, **{**dict.fromkeys(KINDS), "structural_tag": _sequence(parts)})


def _calls(writing: Writing, schemas: Schemas, *, one: bool) -> list[Mapping[str, Any]]:
    """The parts of calls and nothing else, of which there is one at least."""
    calls = {
        "type": "tags_with_separator",
        "tags": [_tag(writing, name, schema) for name, schema in schemas.items()],
        "separator": writing.separator,
        "at_least_one": True,
        "stop_after_first": one or writing.single,
    }
    return [part for part in (_text(writing.first), calls, _text(writing.last)) if part is not None]


def _loosened(schemas: Schemas, strict: Collection[str]) -> Schemas:
    """The schemas, but that of some object for a function that is not in `strict`."""
    return {name: schema if name in strict else {"type": "object"} for name, schema in schemas.items()}


def _thoughts(form: ReasoningFormat | None, prompt: str, *, channels: bool) -> list[Mapping[str, Any]]:
    """The reasoning before an answer to the prompt, which it must hold, or may."""
    if form is None or form.ended_by(prompt) or form.channels is not channels:
        return []
    if channels:
        thought = _free(ANALYSIS_BEGIN, ANALYSIS_END + NEXT_MESSAGE)
        return [{"type": "or", "elements": [thought, _nothing()]}]
    opened = [_sequence([_free(begin, form.closes[0]), _GAP])["format"] for begin in form.opens]
    other = _sequence([_free("", form.closes[0]), _GAP])["format"] if form.begun_by(prompt) else _nothing()
    return [{"type": "or", "elements": [*opened, other]}]


def _sequence(parts: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    return {"type": "structural_tag", "format": {"type": "sequence", "elements": parts}}


def _tag(writing: Writing, name: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    begin = writing.begin.replace("{name}", name)
    return {"type": "tag", "begin": begin, "content": _json(schema), "end": writing.end}


def _json(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": "json_schema", "json_schema": schema}


def _free(begin: str, end: str) -> Mapping[str, Any]:
    return {"type": "tag", "begin": begin, "content": {"type": "any_text"}, "end": end}


def _text(text: str) -> Mapping[str, Any] | None:
    return {"type": "const_string", "value": text} if text else None


def _nothing() -> Mapping[str, Any]:
    return {"type": "const_string", "value": ""}
