"""A JSON Schema, checked keyword by keyword, as what makes grammars of schemas reads it. [host half: no jax]

Owns what is refused, and by which JSON path: nothing that a schema says is left out of what is made of it, but
annotations. `$ref`s are followed here, so that what is made has its definitions in one flat list.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from jaxpaged.bounded_json import parse_json
from jaxpaged.errors import GrammarError
from jaxpaged.structured import keywords

MAX_PARTS = 20_000
"""Subschemas, members of enums and names in one schema, each definition once."""
MAX_DEPTH = 100
"""Objects and lists in each other; the parser of grammars takes 128, and puts a schema into a few more."""
MAX_COUNT = 10_000
"""Of minLength and the like."""
EXACT = 1 << 53
"""Whole numbers up to here are exact as floats, which is what limits of numbers are read as."""
_NAME = re.compile(r"[A-Za-z_$][\w$-]{0,63}")
_SINGLE = re.compile(r"\^(\w+)\$")
"""Patterns that one name alone matches."""
_SHOWN = 64
"""Characters of a name that a path shows."""
_MAX_PATH = 500
DEFINITIONS = "$defs"


def read_schema(text: str) -> Any:
    """The value of a schema's text, no deeper than MAX_DEPTH. Raises GrammarError."""
    try:
        value = parse_json(text.encode())
    except ValueError as error:
        raise GrammarError(name="$", value=text, limit=f"it must be the JSON text of a schema: {error}") from None
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise GrammarError(name="$", value="a schema", limit=f"it is nested deeper than {MAX_DEPTH} levels")
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [part for parts in inner for part in parts]
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Normal:
    """schema: with its enforced keywords alone, and every definition that it refers to under `$defs`.

    places: the JSON path at which each of these definitions was found, by its name.
    """

    schema: Mapping[str, Any]
    places: Mapping[str, str]


def normalised(schema: Any, *, closed: bool = False) -> Normal:
    """A schema as `Normal` has it.

    closed: objects with `properties` have no others, unless they say so. Raises GrammarError naming the JSON path of a
    keyword that answers cannot be held to, or whose value cannot be.
    """
    if not isinstance(schema, dict):
        raise GrammarError(name="$", value=schema, limit="it must be a JSON object", fix="Write true as {}")
    return _Walk(schema, closed=closed).run()


def child(path: str, part: str | int) -> str:
    """The JSON path of what lies under a name or an index."""
    if isinstance(part, int):
        return f"{path}[{part}]"
    named = f".{part}" if _NAME.fullmatch(part) else f"[{json.dumps(part[:_SHOWN], ensure_ascii=False)}]"
    return f"{path}{named}" if len(path) < _MAX_PATH else path


class _Walk:
    """One schema's way through its parts."""

    def __init__(self, root: dict[str, Any], *, closed: bool) -> None:
        self._root = root
        self._closed = closed
        self._num_parts = 0
        self._names: dict[str, str] = {}  # of the places that are referred to
        self._left: list[tuple[str, str, Any]] = []  # those not looked at yet: name, path, schema
        self._checks: dict[str, Callable[[Any, str], Any]] = {
            **dict.fromkeys(keywords.COUNTS, _count),
            **dict.fromkeys(keywords.NUMBERS, _number),
            "multipleOf": _step,
            "exclusiveMinimum": _bound,
            "exclusiveMaximum": _bound,
            "type": _types,
            "required": self._names_of,
            "pattern": _text,
            "format": _text,
            "$ref": self._reference,
            "const": self._literal,
            "enum": self._literals,
            **dict.fromkeys(keywords.SCHEMAS, self._schema),
            "items": lambda value, path: (self._schemas if isinstance(value, list) else self._schema)(value, path),
            **dict.fromkeys(keywords.LISTS, self._schemas),
            **dict.fromkeys(keywords.MAPS, self._named),
        }

    def run(self) -> Normal:
        made = self._schema(self._root, "$")
        definitions: dict[str, Any] = {}
        places: dict[str, str] = {}
        while self._left:
            name, places[name], schema = self._left.pop()
            definitions[name] = self._schema(schema, places[name])
        _check_circles({"#": made} | {f"#/{DEFINITIONS}/{name}": one for name, one in definitions.items()})
        return Normal(schema={**made, DEFINITIONS: definitions} if definitions else made, places=places)

    def _schema(self, schema: Any, path: str) -> Any:
        self._count_part(path)
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise GrammarError(name=path, value=schema, limit="a schema must be an object, true or false")
        kept: dict[str, Any] = {}
        for keyword, value in schema.items():
            if self._matters(keyword, value, schema, path):
                check = self._checks[keyword]
                kept[keyword] = check(value, child(path, keyword))
        _name_single(kept)
        if self._closed and ("properties" in kept or "patternProperties" in kept):
            kept.setdefault("additionalProperties", False)
        _check_least_properties(kept, path)
        return kept

    def _matters(self, keyword: str, value: Any, schema: dict[str, Any], path: str) -> bool:
        """Whether answers are held to a keyword. Raises GrammarError for one that they cannot be held to."""
        place = child(path, keyword)
        if keyword == "format":
            return self._format_matters(value, schema, place)
        if keyword == "additionalItems":
            return isinstance(schema.get("items"), list)  # it says nothing anywhere else
        if keyword in keywords.ENFORCED:
            return True
        if keyword in keywords.ANNOTATIONS:
            self._check_annotation(keyword, value, schema, place)
            return False
        known = keyword == "x-guidance" or not keyword.startswith(keywords.EXTENSION)
        if known and not keywords.says_nothing(keyword, value, schema):
            limit, fix = keywords.why_not(keyword)
            raise GrammarError(name=place, value=value, limit=f"{keyword}: {limit}", fix=fix)
        return False

    def _format_matters(self, value: Any, schema: dict[str, Any], place: str) -> bool:
        types = schema.get("type", "string")
        if "string" not in (types if isinstance(types, list) else [types]):
            return False  # all formats are of texts
        if value not in keywords.FORMATS:
            known = ", ".join(sorted(keywords.FORMATS))
            limit = f"format: an answer cannot be held to this one. There are {known}"
            raise GrammarError(name=place, value=value, limit=limit, fix="Use pattern, or leave it out")
        return True

    def _check_annotation(self, keyword: str, value: Any, schema: dict[str, Any], place: str) -> None:
        """What annotations say of how a schema is read must be what is done here."""
        if keyword == "$schema" and (not isinstance(value, str) or value.rstrip("#") not in keywords.DRAFTS):
            known = ", ".join(sorted(keywords.DRAFTS))
            raise GrammarError(name=place, value=value, limit=f"$schema: a draft that is not known. There are {known}")
        if keyword in ("$id", "id") and schema is not self._root and isinstance(value, str):
            limit = f"{keyword}: parts cannot have names of their own, to which references would be relative"
            raise GrammarError(name=place, value=value, limit=limit, fix="Leave it out, or give the part alone")

    def _schemas(self, value: Any, path: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise _wrong(path, value, "it must be a list of schemas, and not empty")
        return [self._schema(part, child(path, i)) for i, part in enumerate(value)]

    def _named(self, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(path, value, "it must be an object of schemas")
        return {name: self._schema(part, child(path, name)) for name, part in value.items()}

    def _names_of(self, value: Any, path: str) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise _wrong(path, value, "it must be a list of names")
        for i in range(len(value)):
            self._count_part(child(path, i))
        return list(dict.fromkeys(value))

    def _literals(self, value: Any, path: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise _wrong(path, value, "it must be a list of values, and not empty")
        return [self._literal(one, child(path, i)) for i, one in enumerate(value)]

    def _literal(self, value: Any, path: str) -> Any:
        """A value that an answer may be equal to; its numbers must be exact."""
        self._count_part(path)
        if isinstance(value, dict):
            for name, part in value.items():
                self._literal(part, child(path, name))
        elif isinstance(value, list):
            for i, part in enumerate(value):
                self._literal(part, child(path, i))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            _number(value, path)
        return value

    def _reference(self, value: Any, path: str) -> str:
        """The place among the definitions made here of what a `$ref` means."""
        if not isinstance(value, str):
            raise _wrong(path, value, "it must be a text")
        whole = self._root.get("$id")
        pointer = value.removeprefix(whole) if isinstance(whole, str) else value
        if pointer in ("#", ""):
            return "#"
        if not pointer.startswith("#/"):
            fix = 'Put what it refers to into this schema, and refer to it by "#/$defs/..."'
            raise GrammarError(name=path, value=value, limit="$ref: only places of this schema are looked up", fix=fix)
        if pointer not in self._names:
            found, place = self._find(pointer, path, value)
            self._names[pointer] = f"d{len(self._names)}"
            self._left.append((self._names[pointer], place, found))
        return f"#/{DEFINITIONS}/{self._names[pointer]}"

    def _find(self, pointer: str, path: str, value: str) -> tuple[Any, str]:
        found: Any = self._root
        place = "$"
        for part in pointer[2:].split("/"):
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isascii() and key.isdigit() and int(key[:9]) < len(found):
                found, place = found[int(key[:9])], child(place, int(key[:9]))
            elif isinstance(found, dict) and key in found:
                found, place = found[key], child(place, key)
            else:
                raise GrammarError(name=path, value=value, limit="$ref: there is nothing at this place")
        return found, place

    def _count_part(self, path: str) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise GrammarError(name=path, value="a schema", limit=f"it has more than {MAX_PARTS} parts")


def _name_single(schema: dict[str, Any]) -> None:
    """Make properties of patterns that one name alone matches: where it has come, none would be left to match, and what
    makes grammars would go on to where nothing can follow."""
    patterns = schema.get("patternProperties", {})
    named = {pattern: found[1] for pattern in patterns if (found := _SINGLE.fullmatch(pattern))}
    if not named:
        return
    properties = schema["properties"] = dict(schema.get("properties", {}))
    for pattern, name in named.items():
        other = properties.get(name)
        properties[name] = patterns[pattern] if other is None else {"allOf": [other, patterns[pattern]]}
    schema["patternProperties"] = {pattern: value for pattern, value in patterns.items() if pattern not in named}
    if not schema["patternProperties"]:
        del schema["patternProperties"]


def _check_least_properties(schema: Mapping[str, Any], path: str) -> None:
    """What comes beside the named properties may come twice by one name, and then counts once."""
    least = schema.get("minProperties", 0)
    sure = len(schema.get("required", ())) + 1
    if least > sure:
        limit = (
            f"minProperties: an answer cannot be held to more than {sure} here: names that are not in `required` "
            "could be equal"
        )
        raise GrammarError(name=child(path, "minProperties"), value=least, limit=limit, fix="Name them in `required`")


def _check_circles(schemas: Mapping[str, Any]) -> None:
    """Refuse places, by what `$ref` calls them, that refer to each other and say nothing else."""
    following = {
        place: schema["$ref"]
        for place, schema in schemas.items()
        if isinstance(schema, dict) and set(schema) == {"$ref"}
    }
    while following:
        start = place = next(iter(following))
        seen = {start}
        while (place := following.pop(place, "")) and place not in seen:
            seen.add(place)
        if place:
            raise GrammarError(name="$", value="$ref", limit="$ref: definitions refer to each other in a circle")


def _count(value: Any, path: str) -> int:
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(whole, bool) or not isinstance(whole, int) or whole < 0:
        raise _wrong(path, value, "it must be a whole number from 0")
    if whole > MAX_COUNT:
        raise _wrong(path, value, f"answers are held to counts up to {MAX_COUNT}")
    return whole


def _number(value: Any, path: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(path, value, "it must be a number")
    if isinstance(value, int) and abs(value) > EXACT:
        raise _wrong(path, value, f"whole numbers beyond {EXACT} are not held exactly")
    return value


def _step(value: Any, path: str) -> int | float:
    if _number(value, path) <= 0:
        raise _wrong(path, value, "it must be above 0")
    return value


def _bound(value: Any, path: str) -> int | float | bool:
    return value if isinstance(value, bool) else _number(value, path)


def _types(value: Any, path: str) -> Any:
    types = value if isinstance(value, list) else [value]
    if not types or not all(isinstance(one, str) and one in keywords.TYPES for one in types):
        raise _wrong(path, value, f"it must be one or several of {', '.join(keywords.TYPES)}")
    return value


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(path, value, "it must be a text")
    return value


def _wrong(path: str, value: Any, limit: str) -> GrammarError:
    return GrammarError(name=path, value=value, limit=limit)
