"""Structural tags: free text with parts of a given form between tags, as a grammar in Lark's way of writing.
[host half: no jax]

Both ways to say it are vLLM's: `structures` with `triggers`, and `format`, which is a tree (xgrammar's).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxpaged.errors import GrammarError
from jaxpaged.structured.expression import expression
from jaxpaged.structured.schema import child, read_schema

MAX_RULES = 4096
Schemas = Callable[[Any], Mapping[str, Any]]
"""What a schema says, as it goes into a grammar; raises GrammarError by JSON path from "$" on."""
_FORMATS = "const_string, json_schema, any_text, regex, sequence, or, tag, triggered_tags, tags_with_separator"


def tags_grammar(text: str, schemas: Schemas, special: Mapping[str, int]) -> str:
    """The grammar of a structural tag's text. special: the special tokens by their texts.

    Raises GrammarError naming the JSON path of what is wrong.
    """
    told = read_schema(text)
    if not isinstance(told, dict):
        raise GrammarError(name="$", value=told, limit="a structural tag must be a JSON object")
    if told.get("type", "structural_tag") != "structural_tag":
        raise GrammarError(name="$.type", value=told["type"], limit='it must be "structural_tag"')
    rules = _Rules(schemas=schemas, special=special)
    if "format" in told:
        _only(told, "$", "type", "format")
        start = rules.form(told["format"], "$.format")
    else:
        _only(told, "$", "type", "structures", "triggers")
        start = rules.structures(told)
    return "\n".join([f"start: {start}", "TEXT: /(.|\\n)*/", *rules.lines])


@dataclass(slots=True, kw_only=True)
class _Rules:
    """The rules of a grammar as they come."""

    schemas: Schemas
    special: Mapping[str, int]
    lines: list[str] = field(default_factory=list)

    def add(self, body: str, path: str, *, lazy: bool = False, terminal: bool = False) -> str:
        """A new rule; returns its name."""
        if len(self.lines) >= MAX_RULES:
            raise GrammarError(name=path, value="a structural tag", limit=f"it has more than {MAX_RULES} parts")
        name = f"{'R' if terminal else 'r'}{len(self.lines)}"
        self.lines.append(f"{name}{'[lazy]' if lazy else ''}: {body}")
        return name

    def structures(self, told: Mapping[str, Any]) -> str:
        """vLLM's first way: each structure is a tag around JSON of its schema."""
        given = _list(told, "structures", "$")
        tags = [
            (_part(one, child("$.structures", i), "begin", "schema", "end"), child("$.structures", i))
            for i, one in enumerate(given)
        ]
        made = [
            (
                {"begin": tag.get("begin"), "end": tag.get("end")},
                self.schema(tag.get("schema", {}), f"{path}.schema"),
                path,
            )
            for tag, path in tags
        ]
        return self._triggered(made, _list(told, "triggers", "$"), "$")

    def form(self, told: Any, path: str) -> str:
        """An expression for a node of xgrammar's tree."""
        kind = told.get("type") if isinstance(told, dict) else None
        match kind:
            case "const_string":
                return self.text(_string(_part(told, path, "value"), "value", path))
            case "any_text":
                _part(told, path)
                return "TEXT"
            case "json_schema":
                return self.schema(_part(told, path, "json_schema").get("json_schema", {}), f"{path}.json_schema")
            case "regex":
                pattern = _string(_part(told, path, "pattern"), "pattern", path)
                return self.add(expression(pattern, name=f"{path}.pattern"), path)
            case "sequence" | "or":
                inner = _list(_part(told, path, "elements"), "elements", path)
                if kind == "or" and (texts := self._plain_texts(inner)):
                    return self.add(" | ".join(map(_quoted, texts)), path, terminal=True)
                parts = [self.form(one, child(f"{path}.elements", i)) for i, one in enumerate(inner)]
                return self.add((" " if kind == "sequence" else " | ").join(parts), path)
            case "tag":
                return self._tag(told, path)
            case "triggered_tags":
                return self._triggered_tags(told, path)
            case "tags_with_separator":
                return self._separated_tags(told, path)
            case _:
                raise GrammarError(name=f"{path}.type", value=kind, limit=f"it must be one of {_FORMATS}")

    def schema(self, schema: Any, path: str) -> str:
        """A rule for JSON of a schema."""
        try:
            laid_out = self.schemas(schema)
        except GrammarError as error:
            limit, fix = error.limit, error.fix
            raise GrammarError(name=path + error.name[1:], value=error.value, limit=limit, fix=fix) from None
        return self.add(f"%json {json.dumps(laid_out, ensure_ascii=False)}", path)

    def text(self, text: str) -> str:
        """A text, letter by letter, but for the special tokens in it."""
        pieces = [text]
        if self.special:
            longest_first = sorted(filter(None, self.special), key=len, reverse=True)
            pieces = [one for one in re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text) if one]
        return " ".join(self._piece(one) for one in pieces) or '""'

    def _piece(self, piece: str) -> str:
        token = self.special.get(piece)
        return _quoted(piece) if token is None else f"<[{token}]>"

    def _plain_texts(self, told: Sequence[Any]) -> list[str]:
        """These parts, if they are nothing but texts: alternatives of a rule are followed one by one, and thousands of
        them are too many."""
        if not all(isinstance(one, dict) and one.keys() == {"type", "value"} for one in told):
            return []
        texts = [one["value"] for one in told if one["type"] == "const_string"]
        plain = all(isinstance(text, str) and text and not self._has_special(text) for text in texts)
        return texts if plain and len(texts) == len(told) else []

    def _has_special(self, text: str) -> bool:
        return any(token and token in text for token in self.special)

    def _tag(self, told: Any, path: str) -> str:
        tag = _part(told, path, "begin", "content", "end")
        return f"{self.text(_string(tag, 'begin', path))} {self._rest(tag, path)}"

    def _rest(self, tag: Mapping[str, Any], path: str) -> str:
        """What follows on a tag's beginning."""
        content, end = tag.get("content"), _string(tag, "end", path)
        if isinstance(content, dict) and content.get("type") == "any_text" and end and not self._has_special(end):
            return self.add(f"TEXT {self.text(end)}", path, lazy=True)  # up to the first end that comes
        return f"{self.form(content, f'{path}.content')} {self.text(end)}"

    def _triggered_tags(self, told: Any, path: str) -> str:
        told = _part(told, path, "triggers", "tags", "at_least_one", "stop_after_first")
        given = _list(told, "tags", path)
        made = []
        for i, one in enumerate(given):
            place = child(f"{path}.tags", i)
            tag = _part(one, place, "begin", "content", "end")
            made.append(({"begin": tag.get("begin"), "end": ""}, self._rest(tag, place), place))
        least, first = _flag(told, "at_least_one", path), _flag(told, "stop_after_first", path)
        return self._triggered(made, _list(told, "triggers", path), path, least=least, first=first)

    def _triggered(
        self,
        tags: Sequence[tuple[Mapping[str, Any], str, str]],
        triggers: Sequence[Any],
        path: str,
        *,
        least: bool = False,
        first: bool = False,
    ) -> str:
        """Free text in which a trigger begins one of its tags. tags: begin and end, what is between, the path."""
        begun: dict[str, list[str]] = {}
        known = sorted((_string({"it": one}, "it", path) for one in triggers), key=len, reverse=True)
        for tag, between, place in tags:
            begin, end = _string(tag, "begin", place), _string(tag, "end", place)
            trigger = next((one for one in known if one and begin.startswith(one)), None)
            if trigger is None:
                raise GrammarError(name=f"{place}.begin", value=begin, limit=f"it must begin with one of {known}")
            begun.setdefault(trigger, []).append(f"{self.text(begin[len(trigger) :])} {between} {self.text(end)}")
        options = []
        for trigger, rest in begun.items():
            # free text ends where the trigger does; a special token is none of its letters
            head = f"TEXT {self.text(trigger)}"
            head = head if self._has_special(trigger) else self.add(head, path, lazy=True)
            options.append(self.add(f"{head} ({' | '.join(rest)})", path))
        some = f"({' | '.join(options)})"
        if first:
            return some if least else f"({some} | TEXT)"
        return f"{some}{'+' if least else '*'} TEXT"

    def _separated_tags(self, told: Any, path: str) -> str:
        told = _part(told, path, "tags", "separator", "at_least_one", "stop_after_first")
        parts = [self._tag(one, child(f"{path}.tags", i)) for i, one in enumerate(_list(told, "tags", path))]
        tag = self.add(" | ".join(parts), path)
        separator = self.text(_string(told, "separator", path))
        several = tag if _flag(told, "stop_after_first", path) else f"{tag} ({separator} {tag})*"
        return several if _flag(told, "at_least_one", path) else f"({several})?"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _part(told: Any, path: str, *known: str) -> Mapping[str, Any]:
    if not isinstance(told, dict):
        raise GrammarError(name=path, value=told, limit="it must be a JSON object")
    _only(told, path, "type", *known)
    return told


def _only(told: Mapping[str, Any], path: str, *known: str) -> None:
    for name, value in told.items():
        if name not in known:
            limit = f"there is no such field here. There are {', '.join(known)}"
            raise GrammarError(name=child(path, name), value=value, limit=limit)


def _string(told: Mapping[str, Any], name: str, path: str) -> str:
    value = told.get(name, "")
    if not isinstance(value, str):
        raise GrammarError(name=child(path, name), value=value, limit="it must be a text")
    return value


def _list(told: Mapping[str, Any], name: str, path: str) -> list[Any]:
    value = told.get(name)
    if not isinstance(value, list) or not value:
        raise GrammarError(name=child(path, name), value=value, limit="it must be a list, and not empty")
    return value


def _flag(told: Mapping[str, Any], name: str, path: str) -> bool:
    value = told.get(name, False)
    if not isinstance(value, bool):
        raise GrammarError(name=child(path, name), value=value, limit="it must be true or false")
    return value
