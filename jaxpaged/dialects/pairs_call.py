"""Calls written as keys and values between marks; the arguments' JSON is made of them. [host half: no jax]"""

from __future__ import annotations

import json
import re

from jaxpaged.dialects.call_format import PairsBody
from jaxpaged.dialects.cursor import NAME, WHITE, Cursor, MalformedError, Reading, Sink, ignore
from jaxpaged.dialects.draft import Draft
from jaxpaged.dialects.json_text import escaped, loads
from jaxpaged.dialects.marks import marks_of
from jaxpaged.dialects.tools import type_of

_KEY = re.compile(r'[^<>"\n]+')
_TEXT = frozenset(("string",))
_SPELLED = {"True": "true", "False": "false", "None": "null"}


def pairs_call(cursor: Cursor, draft: Draft, body: PairsBody) -> Reading[None]:
    """Read a name and its pairs. Raises MalformedError; what the call cannot be made of is kept by the cursor.

    What stands where a pair or the end should is no part of the call, which ends there.
    """
    yield from cursor.run(WHITE, ignore)
    name = yield from cursor.word(NAME)
    if body.name_end:
        yield from cursor.expect(body.name_end)
    yield from cursor.run(WHITE, ignore)
    options = (body.key_begin, *body.ends)
    mark = yield from cursor.match(options)
    if not mark and not body.name_end:
        raise MalformedError
    draft.begin(name)
    before = "{"
    while mark == body.key_begin:
        cursor.keep(mark)
        key = yield from cursor.word(_KEY)
        if not (yield from cursor.match((body.key_end,))):
            raise MalformedError
        if body.value_begins[0][:1] not in ("", " "):
            yield from cursor.run(WHITE, ignore)
        begun_by = yield from cursor.match(body.value_begins)
        if not begun_by and "" not in body.value_begins:
            raise MalformedError
        cursor.kept()
        draft.add(f"{before}{json.dumps(key.strip(), ensure_ascii=False)}: ")
        before = ", "
        types = _TEXT if begun_by in body.text_begins else draft.tools.types(name, key.strip())
        if not (yield from _value(cursor, draft.add, body, types)):
            return  # the text ends here
        yield from cursor.run(WHITE, ignore)
        mark = yield from cursor.match(options)
    if mark or (yield from cursor.peek()):  # where the text ends too early, so do the arguments
        draft.add("{}" if before == "{" else "}")
        draft.complete = True


def as_json(text: str, types: frozenset[str]) -> str:
    """The JSON of a value that is written without quotes; of types that are not known, what it looks like."""
    trimmed = text.strip()
    trimmed = _SPELLED.get(trimmed, trimmed)
    value = loads(trimmed)
    if value is MalformedError or ("string" in types and not _fits(type_of(value), types)):
        return json.dumps(text, ensure_ascii=False)
    return trimmed


def _fits(found: str, types: frozenset[str]) -> bool:
    """Whether a value that looks like this type is meant as such, where it may also be text."""
    return found != "string" and (found in types or (found == "integer" and "number" in types))


def _value(cursor: Cursor, sink: Sink, body: PairsBody, types: frozenset[str]) -> Reading[bool]:
    """Tell a value, as it comes if it is text. Returns whether its end was there."""
    end = marks_of((body.value_end,))
    if body.line:
        yield from cursor.match(("\n",))
    if types == _TEXT:
        sink('"')
        text = _Lines(sink, held=body.line)
        if not (yield from cursor.until(end, text.push)):
            return False
        sink('"')
        return True
    parts: list[str] = []
    ended = yield from cursor.until(end, parts.append)
    whole = "".join(parts)
    if not ended:
        sink(whole)
        return False
    sink(as_json(whole.removesuffix("\n") if body.line else whole, types))
    return True


class _Lines:
    """Text, escaped, but for a break of its last line (held)."""

    def __init__(self, sink: Sink, *, held: bool) -> None:
        self._sink = sink
        self._holds = held
        self._held = False

    def push(self, text: str) -> None:
        if not text:
            return
        if self._held:
            self._sink("\\n")
        self._held = self._holds and text.endswith("\n")
        self._sink(escaped(text[:-1] if self._held else text))
