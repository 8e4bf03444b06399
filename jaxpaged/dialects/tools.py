"""The functions that a model may call, as parsers need to know them. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_COMBINED = ("anyOf", "oneOf")
_TYPE_NAMES: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
    (type(None), "null"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Functions by name, each with the JSON schema of its arguments; {} where there is none."""

    parameters: Mapping[str, Mapping[str, Any]]

    def __contains__(self, name: str) -> bool:
        return name in self.parameters

    def types(self, name: str, argument: str) -> frozenset[str]:
        """JSON types that an argument may have; none where the schema does not say."""
        properties = self.parameters.get(name, {}).get("properties")
        return _types(properties.get(argument)) if isinstance(properties, Mapping) else frozenset()


def type_of(value: object) -> str:
    """The JSON type of a value."""
    return next((name for kind, name in _TYPE_NAMES if isinstance(value, kind)), "")


def _types(schema: object) -> frozenset[str]:
    """Of one level: what lies behind references is not looked for."""
    if not isinstance(schema, Mapping):
        return frozenset()
    declared = schema.get("type")
    if isinstance(declared, str):
        return frozenset((declared,))
    if isinstance(declared, list):
        return frozenset(item for item in declared if isinstance(item, str))
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        return frozenset(map(type_of, values))
    found: frozenset[str] = frozenset()
    for option in (option for name in _COMBINED if isinstance(options := schema.get(name), list) for option in options):
        inner = option.get("type") if isinstance(option, Mapping) else None
        if not isinstance(inner, str):
            return frozenset()  # what one of them may be is not known
        found |= {inner}
    return found
