"""A body becomes a struct, strictly: what JSON leaves open (NaN, doubled keys, half characters) is refused, and so is a
field that nobody reads, since dropping it would silently change the answer."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NoReturn, TypeVar

import msgspec

from jaxpaged.errors import ParameterError, RequestError
from jaxpaged.unique_keys import unique_keys
from jaxpaged_server.api.long_json import load_long

Body = TypeVar("Body", bound=msgspec.Struct)

SHORT_BYTES = 16 * 1024
"""Of a body that is read at once, in at most 4 ms; longer ones are read by `load_long`."""
_LONGEST_NAME = 64
_STEPS = re.compile(r"[^.\[\]]+")
"""Of a path such as messages[1].content."""

Neutral = Callable[[Any], bool]
"""Whether a value of a field that is not served asks for nothing."""


def never(value: Any) -> bool:
    """As `Neutral`: every value asks for something."""
    del value
    return False


class BodyError(RequestError):
    """A body that is no JSON object, or not one of the asked form. `param` is the path of the field at fault."""

    def __init__(self, *, name: str, value: object, limit: str, fix: str = "", param: str | None = None) -> None:
        super().__init__(name=name, value=value, limit=limit, fix=fix)
        self.param = param


class UnknownFieldError(ParameterError):
    """A field that is not known, or known and not supported."""


def parse_body(raw: bytes, kind: type[Body], *, refused: Mapping[str, tuple[str, Neutral]] | None = None) -> Body:
    """The struct in a JSON body.

    refused: fields that other servers know and this one does not serve: why, and which of their values ask for nothing
    (null always does). Raises BodyError and UnknownFieldError.
    """
    fields = load_object(raw)
    for name, (why, neutral) in (refused or {}).items():
        if name in fields:
            value = fields.pop(name)
            if value is not None and not neutral(value):
                raise UnknownFieldError(name=name, value=value, limit=why)
    known = _field_names(kind)
    for name, value in fields.items():
        if name not in known:
            # compared by its beginning: a name may be as long as the body, and take a third of a second
            near = difflib.get_close_matches(name[:_LONGEST_NAME], [*known, *(refused or {})], n=1, cutoff=0.7)
            fix = f"Did you mean {near[0]!r}?" if near else "Leave it out"
            raise UnknownFieldError(name=name[:_LONGEST_NAME], value=value, limit="there is no such field", fix=fix)
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        _raise_invalid(error, fields)


@cache
def _field_names(kind: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(kind))


def load_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises BodyError for anything else, and for what JSON parsers disagree on."""
    try:
        text = raw.decode("utf-8")
        value = _load_short(text) if len(raw) <= SHORT_BYTES else load_long(raw)
    except RecursionError:
        raise BodyError(name="body", value="(nested)", limit="it is nested too deeply") from None
    except UnicodeEncodeError:
        raise BodyError(
            name="body", value="(text)", limit="it holds half of a surrogate pair, which is no text"
        ) from None
    except UnicodeDecodeError as error:
        raise BodyError(name="body", value=f"byte {error.start}", limit="it must be UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise BodyError(name="body", value=place, limit=f"it is not JSON: {error.msg}") from None
    except ValueError as error:  # of the hooks, of numbers with thousands of digits, and of `load_long`
        limit = "a number has too many digits" if "digits" in str(error) else str(error)
        raise BodyError(name="body", value="(JSON)", limit=limit) from None
    if not isinstance(value, dict):
        raise BodyError(name="body", value=type(value).__name__, limit="it must be a JSON object")
    return value


def _load_short(text: str) -> Any:
    value = json.loads(text, object_pairs_hook=unique_keys, parse_constant=_no_constant)
    if "\\u" in text:  # the only way to half a character
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _raise_invalid(error: msgspec.ValidationError, fields: Mapping[str, Any]) -> NoReturn:
    """Name the field at fault by its path, and show its value."""
    reason, _, path = str(error).partition(" - at `")
    path = path.rstrip("`").removeprefix("key` in `").removeprefix("$").removeprefix(".") or "body"
    value: Any = fields if path != "body" else "(body)"
    for step in _STEPS.findall(path):
        if isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
    raise BodyError(name=path, value=value, limit=reason[:1].lower() + reason[1:], param=path) from None
