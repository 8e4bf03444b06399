"""Calls written as JSON: an object of name and arguments, or a name before an object. [host half: no jax]"""

from __future__ import annotations

import re

from jaxpaged.dialects.call_format import NamedBody, ObjectBody
from jaxpaged.dialects.cursor import NAME, WHITE, Cursor, MalformedError, Reading, ignore
from jaxpaged.dialects.draft import Draft
from jaxpaged.dialects.json_text import json_string, json_value, loads

_LONE = re.compile(r"[\ud800-\udfff]")
"""Halves of characters, which no reply can hold but as they are escaped."""
_PATH = re.compile(r"(?:functions\.)?(?P<name>[\w.-]+?)(?::\d+)?")


def object_call(cursor: Cursor, draft: Draft, body: ObjectBody) -> Reading[None]:
    """Read {"name": ..., "arguments": {...}}; other keys say nothing. Raises MalformedError.

    The arguments are told as they come where the name came before them, and else when all has come.
    """
    yield from cursor.expect("{")
    name, held = "", ""
    first = True
    while True:
        yield from cursor.run(WHITE, ignore)
        if (yield from cursor.match(("}",))):
            break
        if not first:
            yield from cursor.expect(",")
        first = False
        key = yield from json_string(cursor)
        yield from cursor.expect(":")
        if key in body.names and not name:
            name = yield from json_string(cursor)
            if not name or (body.strict and name not in draft.tools):
                raise MalformedError
        elif key in body.arguments and not held and not draft.begun:
            held = yield from _arguments(cursor, draft, name)
        elif body.strict and not draft.begun and key not in body.others:
            raise MalformedError
        else:
            yield from cursor.run(WHITE, ignore)
            yield from json_value(cursor, ignore)
    if not draft.begun:
        if not name or (body.strict and not held):
            raise MalformedError
        draft.begin(name)
        draft.add(held or "{}")
    draft.complete = True


def named_call(cursor: Cursor, draft: Draft, body: NamedBody) -> Reading[None]:
    """Read a name and the object behind it. Raises MalformedError."""
    if body.lead:
        yield from cursor.run(WHITE, ignore)
        yield from cursor.word(NAME)
        yield from cursor.expect(body.lead)
    yield from cursor.run(WHITE, ignore)
    name = yield from cursor.word(NAME)
    id = None
    if body.is_path:
        if (path := _PATH.fullmatch(name)) is None:
            raise MalformedError
        id, name = name, path["name"]
    yield from cursor.run(WHITE, ignore)
    middle = yield from cursor.match(body.middles)
    if middle and middle == body.id_middle:
        id = yield from cursor.word(NAME)
        middle = yield from cursor.match(body.middles)
    if not middle and "" not in body.middles:
        raise MalformedError
    yield from cursor.run(WHITE, ignore)
    if (yield from cursor.peek()) != "{":
        raise MalformedError
    draft.begin(name, id=id, verbatim=True)
    yield from json_value(cursor, draft.add)
    draft.complete = True
    if body.tail:
        yield from cursor.run(WHITE, ignore)
        yield from cursor.match((body.tail,))


def _arguments(cursor: Cursor, draft: Draft, name: str) -> Reading[str]:
    """Tell an object as it comes, if the name is known; else return the arguments, once they have come."""
    yield from cursor.run(WHITE, ignore)
    is_object = (yield from cursor.peek()) == "{"
    if is_object and name:
        draft.begin(name, verbatim=True)
        yield from json_value(cursor, draft.add)
        draft.complete = True
        return ""
    parts: list[str] = []
    yield from json_value(cursor, parts.append)
    text = "".join(parts)
    value = None if is_object else loads(text)
    if isinstance(value, str) and isinstance(loads(value), dict):
        return _LONE.sub(_escape, value)  # an object, written as the text of one
    return "{}" if text == "null" else text


def _escape(half: re.Match[str]) -> str:
    return f"\\u{ord(half[0]):04x}"
