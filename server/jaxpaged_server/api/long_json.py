"""Long JSON bodies: as strict as short ones, and read in milliseconds whatever they hold.

`json.loads` with a hook for each object takes up to half a second for 2 MiB, and no other thread runs meanwhile.
msgspec is many times faster, but takes doubled keys, and is slow itself with lists and objects by the hundred thousand
and with numbers of many digits. So these are counted before anything is built: no request that is served has many.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

import msgspec

MAX_STRINGS = 65_536
"""Keys among them: the most messages of a chat, with a dozen parts each, have fewer."""
MAX_CONTAINERS = 32_768
"""Lists and objects."""
MAX_FRACTIONS = 4096
"""Numbers with a point or an exponent, and words such as true."""
MAX_DIGITS = 64
"""Of a number."""
_SHOWN = 64
_ANY_DIGIT_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
_STRING_OR_BRACKET = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")\s*(:)?|[][{}]', re.DOTALL)
_OPEN_HALF = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u)")
_CONSTANT = re.compile(rb"-?(?:NaN|Infinity)")


def load_long(raw: bytes) -> Any:
    """The value in a body of UTF-8. Raises ValueError saying what is wrong with it, and RecursionError."""
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)  # looks through it and builds nothing
        outside = _outside_strings(raw)
        _check_shape(outside)
        value = msgspec.json.decode(raw)
    except msgspec.ValidationError:
        raise ValueError("a number is out of range") from None
    except msgspec.DecodeError as error:
        _raise_malformed(raw, str(error))
    if outside.count(b":") != _num_pairs(value, outside.count(b"[") + outside.count(b"{")):
        raise ValueError(f"the key {_doubled_key(raw)[:_SHOWN]!r} is there twice")
    return value


def _outside_strings(raw: bytes) -> bytes:
    """All of some JSON but its strings. Raises ValueError where there are too many of these."""
    if b"\\" in raw:
        # only strings have backslashes; pairs of them go first, so that one that stays before a quote escapes it
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if raw.count(b'"') > 2 * MAX_STRINGS:
        raise ValueError(f"it holds more than {MAX_STRINGS} texts and keys")
    return b"".join(raw.split(b'"')[::2])


def _check_shape(outside: bytes) -> None:
    if outside.count(b"[") + outside.count(b"{") > MAX_CONTAINERS:
        raise ValueError(f"it holds more than {MAX_CONTAINERS} lists and objects")
    if outside.count(b".") + outside.count(b"e") + outside.count(b"E") > MAX_FRACTIONS:
        raise ValueError(f"it holds more than {MAX_FRACTIONS} fractions and words")
    if b"0" * (MAX_DIGITS + 1) in outside.translate(_ANY_DIGIT_TO_ZERO):
        raise ValueError("a number has too many digits")


def _num_pairs(value: Any, containers: int) -> int:
    """Keys of all objects in a value of so many lists and objects: where all are seen, long lists are not read."""
    left = [value] if isinstance(value, dict | list) else []
    found, seen = 0, len(left)
    while left:
        one = left.pop()
        if isinstance(one, dict):
            found += len(one)
        if seen < containers:
            inner = [item for item in (one.values() if isinstance(one, dict) else one) if type(item) in (dict, list)]
            seen += len(inner)
            left += inner
    return found


def _doubled_key(raw: bytes) -> str:
    """The first one, of JSON that has one. In steps, between which other threads run."""
    keys: list[set[str]] = []
    for match in _STRING_OR_BRACKET.finditer(raw):
        string, colon = match.groups()
        if colon:
            key = msgspec.json.decode(string, type=str)
            if key in keys[-1]:
                return key
            keys[-1].add(key)
        elif string is None and match[0] in b"[{":
            keys.append(set())
        elif string is None:
            keys.pop()
    raise AssertionError("no key is there twice")


def _raise_malformed(raw: bytes, said: str) -> NoReturn:
    """said: by msgspec, as "JSON is malformed: invalid character (byte 5)"; no place: the end is missing."""
    reason, _, place = said.removeprefix("JSON is malformed: ").partition(" (byte ")
    at = int(place.rstrip(")")) if place else len(raw)
    if "surrogate" in said or _OPEN_HALF.search(raw[max(0, at - 16) : at + 8]):
        raise ValueError("it holds half of a surrogate pair, which is no text")
    if constant := _CONSTANT.match(raw, at - (raw[at - 1 : at] == b"-")):
        raise ValueError(f"{constant[0].decode()} is no JSON number")
    line = raw.count(b"\n", 0, at) + 1
    column = len(raw[raw.rfind(b"\n", 0, at) + 1 : at].decode("utf-8", "replace")) + 1
    raise ValueError(f"it is not JSON: {reason[:1].lower() + reason[1:]} at line {line}, column {column}")
