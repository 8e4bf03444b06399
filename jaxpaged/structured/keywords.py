"""JSON Schema's keywords: which of them an answer is held to, and which would change its meaning if they were not.
[host half: no jax]

Meanings are those of draft 2020-12 (https://json-schema.org/draft/2020-12), with the older drafts' `definitions`, lists
as `items`, `additionalItems`, and True and False as `exclusiveMinimum` and `exclusiveMaximum`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
"""Whole numbers from 0."""
NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
SCHEMAS = ("items", "additionalItems", "additionalProperties")
"""A schema each; `items` may be a list of them."""
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
"""Lists of schemas."""
MAPS = ("properties", "patternProperties")
"""Schemas by name."""
LITERALS = ("const", "enum")
OTHERS = ("type", "required", "pattern", "format", "$ref")
ENFORCED = frozenset((*COUNTS, *NUMBERS, *SCHEMAS, *LISTS, *MAPS, *LITERALS, *OTHERS))

ANNOTATIONS = frozenset(
    (
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"),
        *("contentEncoding", "contentMediaType", "contentSchema"),  # annotations since draft 2019-09
        *("$schema", "$id", "id", "$anchor", "$defs", "definitions"),
        *("example", "discriminator", "externalDocs", "xml"),  # OpenAPI's
    )
)
"""They say nothing of what is valid, or only where `$ref` looks."""
EXTENSION = "x-"
"""How names begin that belong to other tools."""

DRAFTS = frozenset(
    (
        *(f"https://json-schema.org/draft/{draft}/schema" for draft in ("2020-12", "2019-09")),
        *(f"http://json-schema.org/draft-0{draft}/schema" for draft in (4, 6, 7)),
        "http://json-schema.org/schema",
    )
)
FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"))
"""Formats of texts that are enforced."""

_NEEDS: Mapping[str, str] = {
    "uniqueItems": "no two items of a list may be equal, which no grammar can say",
    "not": "what is not valid cannot be said by a grammar",
    "if": "a grammar has no conditions",
    "then": "a grammar has no conditions",
    "else": "a grammar has no conditions",
    "dependentRequired": "a grammar has no conditions",
    "dependentSchemas": "a grammar has no conditions",
    "dependencies": "a grammar has no conditions",
    "contains": "a grammar cannot count items of one kind among others",
    "minContains": "a grammar cannot count items of one kind among others",
    "maxContains": "a grammar cannot count items of one kind among others",
    "propertyNames": "names are held to `properties` and `patternProperties` alone",
    "unevaluatedProperties": "what other keywords left open is not tracked",
    "unevaluatedItems": "what other keywords left open is not tracked",
    "$dynamicRef": "only $ref is followed",
    "$dynamicAnchor": "only $ref is followed",
    "$recursiveRef": "only $ref is followed",
    "$recursiveAnchor": "only $ref is followed",
    "$vocabulary": "a schema cannot change what keywords mean",
    "nullable": "it is OpenAPI's, not JSON Schema's",
    "x-guidance": "how JSON is laid out is asked for beside the schema",
}
_INSTEAD: Mapping[str, str] = {
    "if": "Use anyOf",
    "then": "Use anyOf",
    "else": "Use anyOf",
    "propertyNames": "Use patternProperties with additionalProperties: false",
    "unevaluatedProperties": "Use additionalProperties",
    "unevaluatedItems": "Use items",
    "$dynamicRef": "Use $ref",
    "$recursiveRef": "Use $ref",
    "nullable": 'Use "type": [..., "null"]',
    "x-guidance": "Use disable_any_whitespace or whitespace_pattern",
}


def why_not(keyword: str) -> tuple[str, str]:
    """What an error says of a keyword that no answer can be held to, and what to do instead."""
    known = _NEEDS.get(keyword)
    if known is None:
        return (
            "there is no such keyword, or none that is known here",
            "Leave it out; names of other tools begin with x-",
        )
    return f"an answer cannot be held to it: {known}", _INSTEAD.get(keyword, "Leave it out")


def says_nothing(keyword: str, value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a keyword leaves everything valid in this schema, so that it can be left out."""
    match keyword:
        case "uniqueItems" | "not" | "$recursiveAnchor" | "nullable":
            return value is False
        case "unevaluatedProperties" | "unevaluatedItems" | "propertyNames":
            return value is True or value == {}
        case "dependentRequired" | "dependentSchemas" | "dependencies":
            return value == {}
        case "minContains" | "maxContains":
            return "contains" not in schema
        case "if":
            return "then" not in schema and "else" not in schema
        case "then" | "else":
            return "if" not in schema
        case _:
            return False
