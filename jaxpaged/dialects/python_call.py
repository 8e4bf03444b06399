"""Calls written as in Python, with keywords and literals; their JSON is made as they come. [host half: no jax]

Nothing is evaluated: literals are read character by character.
"""

from __future__ import annotations

import json
import math
import re
from enum import Enum

from jaxpaged.dialects.call_format import PythonBody
from jaxpaged.dialects.cursor import WHITE, Cursor, MalformedError, Reading, Sink, ignore
from jaxpaged.dialects.draft import Draft
from jaxpaged.dialects.json_text import escaped

_NAME = re.compile(r"[\w.]+")
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"[-+.\w]+")
_NUMBER_BEGINS = frozenset("-+.0123456789")
_LONGEST_NUMBER = 400
_PLAIN = {'"': re.compile(r'[^"\\]+'), "'": re.compile(r"[^'\\]+")}
_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_CLOSER = {"[": "]", "{": "}", "(": ")"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "\n": ""}
_HEX = {"x": 2, "u": 4, "U": 8}
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


class _State(Enum):
    """What may come next."""

    VALUE = "a value"
    FIRST = "a value or key, or the end of what is open"
    NEXT = "the same, behind a comma"
    COLON = "a colon"
    AFTER = "a comma, or the end of what is open"


def python_call(cursor: Cursor, draft: Draft, body: PythonBody) -> Reading[None]:
    """Read f(a=1, b="c"). Raises MalformedError; what the call cannot be made of is kept by the cursor."""
    yield from cursor.run(WHITE, ignore)
    name = yield from cursor.word(_NAME)
    if name[0].isdigit() or (body.strict and name not in draft.tools):
        raise MalformedError
    yield from cursor.expect("(")
    before = "{"
    while True:
        yield from cursor.run(WHITE, ignore)
        if (yield from cursor.match((")",))):
            break
        if before != "{":
            yield from cursor.expect(",")
            cursor.keep(",")
            yield from cursor.run(WHITE, ignore)
            if (yield from cursor.match((")",))):
                break
        key = yield from cursor.word(_WORD)
        yield from cursor.expect("=")
        if not draft.begun:
            draft.begin(name)
        draft.add(f"{before}{json.dumps(key, ensure_ascii=False)}: ")
        before = ", "
        cursor.keep()
        yield from python_value(cursor, draft.add)
        cursor.keep()
    if not draft.begun:
        draft.begin(name)
    cursor.kept()
    draft.add("{}" if before == "{" else "}")
    draft.complete = True


def python_value(cursor: Cursor, sink: Sink) -> Reading[None]:
    """The JSON of one literal. Raises MalformedError for what is none, or has none."""
    open_: list[str] = []  # how what is open is closed
    state = _State.VALUE
    while True:
        yield from cursor.run(WHITE, ignore)
        character = yield from cursor.peek()
        if not character:
            raise MalformedError
        closer = open_[-1] if open_ else ""
        if character == closer and state in (_State.FIRST, _State.NEXT, _State.AFTER):
            cursor.take(1)
            sink("}" if open_.pop() == "}" else "]")
            state = _State.AFTER
        elif state in (_State.AFTER, _State.COLON):
            if character != ("," if state is _State.AFTER else ":"):
                raise MalformedError
            cursor.take(1)
            if state is _State.COLON:
                sink(": ")
            state = _State.NEXT if state is _State.AFTER else _State.VALUE
        else:
            if state is _State.NEXT:
                sink(", ")
            is_key = closer == "}" and state is not _State.VALUE
            if is_key and character not in _PLAIN:
                raise MalformedError
            state = _State.COLON if is_key else _State.AFTER
            if character in _CLOSER:
                cursor.take(1)
                sink("{" if character == "{" else "[")
                open_.append(_CLOSER[character])
                state = _State.FIRST
            else:
                yield from _atom(cursor, sink, character)
        if state is _State.AFTER and not open_:
            return


def _atom(cursor: Cursor, sink: Sink, character: str) -> Reading[None]:
    """A text, a number or a word."""
    if character in _PLAIN:
        yield from _string(cursor, sink, character)
    elif character in _NUMBER_BEGINS:
        sink(_number((yield from cursor.word(_NUMBER, most=_LONGEST_NUMBER))))
    else:
        word = yield from cursor.word(_WORD)
        if word not in _WORDS:
            raise MalformedError
        sink(_WORDS[word])


def _string(cursor: Cursor, sink: Sink, quote: str) -> Reading[None]:
    cursor.take(1)
    sink('"')
    while True:
        yield from cursor.run(_PLAIN[quote], lambda text: sink(escaped(text)))
        character = yield from cursor.peek()
        if not character:
            raise MalformedError
        cursor.take(1)
        if character == quote:
            sink('"')
            return
        sink(json.dumps((yield from _escape(cursor)))[1:-1])


def _escape(cursor: Cursor) -> Reading[str]:
    """The character that stands behind a backslash as something else."""
    kind = yield from cursor.peek()
    if not kind:
        raise MalformedError
    cursor.take(1)
    if kind not in _HEX:
        return _ESCAPES.get(kind, kind if kind in "\\'\"" else "\\" + kind)
    digits = ""
    for _ in range(_HEX[kind]):
        if (yield from cursor.peek()) not in _HEX_DIGITS:
            raise MalformedError
        digits += cursor.take(1)
    if int(digits, 16) > 0x10FFFF:
        raise MalformedError
    return chr(int(digits, 16))


def _number(text: str) -> str:
    """Raises MalformedError for what is no number, or none of JSON's."""
    try:
        return str(int(text, 0))
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        raise MalformedError from None
    if not math.isfinite(value):
        raise MalformedError
    return repr(value)
