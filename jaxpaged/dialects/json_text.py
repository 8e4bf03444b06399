"""JSON as it is being written: told further as it comes, without waiting for its end. [host half: no jax]"""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any, NoReturn

from jaxpaged.dialects.cursor import WHITE, Cursor, MalformedError, Reading, Sink, ignore

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_SCALAR = re.compile(r"[-+.\w]+")
"""Numbers and words. What is none of them is told all the same: whoever reads the arguments sees what was written."""
_CLOSER = {"{": "}", "[": "]"}


class _State(Enum):
    """What may come next."""

    VALUE = "a value"
    ITEM = "a value, or the end of a list"
    KEY = "a key"
    FIRST_KEY = "a key, or the end of an object"
    COLON = "a colon"
    AFTER = "a comma, or the end of what is open"


_VALUES = (_State.VALUE, _State.ITEM)
_KEYS = (_State.KEY, _State.FIRST_KEY)
_CLOSABLE = (_State.ITEM, _State.FIRST_KEY, _State.AFTER)


def json_value(cursor: Cursor, sink: Sink) -> Reading[None]:
    """One value to the sink as it is written, but for control characters in strings, which are escaped.

    Raises MalformedError at the first character that JSON could not go on with; those before it have gone to the sink.
    """
    open_: list[str] = []  # how what is open is closed
    state = _State.VALUE
    while True:
        yield from cursor.run(WHITE, sink)
        character = yield from cursor.peek()
        if not character:
            raise MalformedError
        if character == '"' and state in (*_VALUES, *_KEYS):
            yield from _string(cursor, sink)
            state = _State.COLON if state in _KEYS else _State.AFTER
        elif character in _CLOSER and state in _VALUES:
            sink(cursor.take(1))
            open_.append(_CLOSER[character])
            state = _State.FIRST_KEY if character == "{" else _State.ITEM
        elif open_ and character == open_[-1] and state in _CLOSABLE:
            sink(cursor.take(1))
            open_.pop()
            state = _State.AFTER
        elif character == "," and open_ and state is _State.AFTER:
            sink(cursor.take(1))
            state = _State.KEY if open_[-1] == "}" else _State.VALUE
        elif character == ":" and state is _State.COLON:
            sink(cursor.take(1))
            state = _State.VALUE
        elif state in _VALUES and _SCALAR.match(character):
            yield from cursor.run(_SCALAR, sink)
            state = _State.AFTER
        else:
            raise MalformedError
        if state is _State.AFTER and not open_:
            return


def json_string(cursor: Cursor) -> Reading[str]:
    """What a string says that stands here, white space before it aside. Raises MalformedError."""
    yield from cursor.run(WHITE, ignore)
    if (yield from cursor.peek()) != '"':
        raise MalformedError
    parts: list[str] = []
    yield from _string(cursor, parts.append)
    said = loads("".join(parts))
    if not isinstance(said, str):
        raise MalformedError
    return said


def escaped(text: str) -> str:
    """As it stands within the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def loads(text: str) -> Any:
    """The value of a JSON text, or `MalformedError` (the class) where it is none: it never raises."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # of the first are numbers with too many digits
        return MalformedError


def _string(cursor: Cursor, sink: Sink) -> Reading[None]:
    sink(cursor.take(1))
    while True:
        yield from cursor.run(_PLAIN, sink)
        character = yield from cursor.peek()
        if not character:
            raise MalformedError
        if character == '"':
            sink(cursor.take(1))
            return
        if character == "\\":
            sink(cursor.take(1))
            character = yield from cursor.peek()
            if not character:
                raise MalformedError
        cursor.take(1)
        sink(character if character in '"\\' else escaped(character))


def _no_constant(word: str) -> NoReturn:
    raise ValueError(word)
