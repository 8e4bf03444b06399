"""JSON schemas of all keywords, and what must become of them: answers that are valid, or a refusal by a JSON path.

Most are made from a table of keywords' values, which is multiplied out; the rest is written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A schema. refused: the JSON path of the keyword that is refused; None: every answer must be valid."""

    schema: Schema
    refused: str | None = None

    @property
    def name(self) -> str:
        return json.dumps(self.schema)[:100]


def table() -> list[Case]:
    """All of them, each once; more than 300."""
    cases = [
        *map(_held, _unique([*_texts(), *_numbers(), *_lists(), *_objects(), *_combined(), *_inner(), *_written()]))
    ]
    return [*cases, *_refused()]


def _held(schema: Schema) -> Case:
    return Case(schema=schema)


def _unique(schemas: list[Schema]) -> list[Schema]:
    return list({json.dumps(schema): schema for schema in schemas}.values())


def _products(fixed: Schema, options: Mapping[str, list[Any]]) -> Iterator[Schema]:
    """Every choice of a value for each keyword; None leaves it out."""
    for values in product(*options.values()):
        chosen = {name: value for name, value in zip(options, values, strict=True) if value is not None}
        yield {**fixed, **chosen}


def _texts() -> list[Schema]:
    lengths = _products({"type": "string"}, {"minLength": [None, 0, 1, 4], "maxLength": [None, 4, 9]})
    patterns = _products(
        {"type": "string"},
        {
            "pattern": ["^[a-z]+$", "[0-9]{2}", "^(foo|bar)-\\d$", "^\\w{2,5}$"],
            "maxLength": [None, 8],
            "minLength": [None, 2],
        },
    )
    formats = [
        {"type": "string", "format": name}
        for name in ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
    ]
    literals = [
        {"const": 'a "quoted" text\n'},
        {"enum": ["red", "green", "blue", ""]},
        {"type": "string", "enum": ["\u00e9t\u00e9", "\u65e5\u672c", "\U0001f642"]},
        {"enum": ["a", "ab", "abc"], "minLength": 2},
        {"type": "string", "const": "x" * 40},
    ]
    return [*lengths, *patterns, *formats, *literals]


def _numbers() -> list[Schema]:
    bounds = _products(
        {},
        {
            "type": ["integer", "number"],
            "minimum": [None, -3, 0, 17],
            "maximum": [None, 20, 1000],
            "multipleOf": [None, 2],
        },
    )
    exclusive = _products(
        {},
        {
            "type": ["integer", "number"],
            "exclusiveMinimum": [None, -1, 2.5],
            "exclusiveMaximum": [None, 4, 99.5],
        },
    )
    literals = [
        {"const": 7},
        {"const": -1.5},
        {"enum": [1, 2.5, -3]},
        {"enum": [0, 1], "type": "integer"},
        {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 4},
        {"type": "integer", "multipleOf": 7, "exclusiveMinimum": 0, "exclusiveMaximum": 50},
        {"type": "integer", "minimum": -(2**40), "maximum": 2**40},
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "type": "integer",
            "minimum": 3,
            "exclusiveMinimum": True,
        },
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "type": "integer",
            "maximum": 3,
            "exclusiveMaximum": False,
        },
    ]
    return [*bounds, *exclusive, *literals]


def _lists() -> list[Schema]:
    kinds = [{"type": "integer", "minimum": 0, "maximum": 9}, {"enum": ["a", "b"]}, {"type": "boolean"}]
    counted = _products({"type": "array"}, {"items": kinds, "minItems": [None, 1, 3], "maxItems": [None, 3]})
    tuples = _products(
        {"type": "array", "prefixItems": [{"const": 1}, {"type": "string", "maxLength": 3}]},
        {"items": [False, {"type": "null"}], "minItems": [None, 1, 2], "maxItems": [None, 3]},
    )
    older = [
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "array",
            "items": [{"type": "boolean"}, {"type": "null"}],
            "additionalItems": additional,
            "minItems": 2,
            "maxItems": 4,
        }
        for additional in (False, {"const": 5})
    ]
    nested = {"type": "array", "maxItems": 2, "items": {"type": "array", "maxItems": 2, "items": kinds[0]}}
    any_list = {"type": "array", "maxItems": 1, "items": {"type": ["null", "boolean"]}}
    return [*counted, *tuples, *older, nested, any_list, {"const": [1, "two", None, {"three": [3]}]}]


def _objects() -> list[Schema]:
    names = {
        "id": {"type": "integer", "minimum": 1, "maximum": 99},
        "tag": {"enum": ["x", "y"]},
        "on": {"type": "boolean"},
    }
    closed = _products(
        {"type": "object", "properties": names},
        {
            "required": [None, ["id"], ["tag", "id"], ["id", "tag", "on"]],
            "additionalProperties": [False, {"type": "null"}],
        },
    )
    maps = _products(
        {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 5}},
        {"minProperties": [None, 1], "maxProperties": [None, 1, 2]},
    )
    patterns = _products(
        {"type": "object", "patternProperties": {"^n_[a-z]{1,3}$": {"type": "null"}, "^b_[0-9]$": {"type": "boolean"}}},
        {"additionalProperties": [False], "maxProperties": [None, 2], "minProperties": [None, 1]},
    )
    others = [
        {"type": "object", "required": ["a"], "additionalProperties": {"const": 1}, "maxProperties": 2},
        {
            "type": "object",
            "properties": {"n_x": {"type": "null"}},
            "patternProperties": {"^n_": {"type": "null"}},
            "additionalProperties": False,
            "required": ["n_x"],
        },
        {
            "type": "object",
            "properties": {"na me": {"const": 1}, '\u00fc"\\': {"const": 2}},
            "required": ["na me", '\u00fc"\\'],
            "additionalProperties": False,
        },
        {"const": {"a": [1, 2, {"b": None}], "c": "d"}},
        {"enum": [{"a": 1}, {"a": 2, "b": [True]}]},
        {
            "type": "object",
            "properties": {"never": False, "ever": True},
            "required": ["id"],
            "additionalProperties": False,
            "patternProperties": {"^id$": {"const": 0}},
        },
    ]
    deep: Schema = {"type": "integer", "minimum": 0, "maximum": 3}
    for i in range(12):
        deep = {
            "type": "object",
            "properties": {f"level{i}": deep},
            "required": [f"level{i}"],
            "additionalProperties": False,
        }
    wide = {
        "type": "object",
        "properties": {f"field_{i}": {"type": "boolean"} for i in range(40)},
        "required": [f"field_{i}" for i in range(0, 40, 7)],
        "additionalProperties": False,
    }
    return [*closed, *maps, *patterns, *others, deep, wide]


def _combined() -> list[Schema]:
    small, flag, word = {"type": "integer", "minimum": 0, "maximum": 9}, {"type": "boolean"}, {"enum": ["yes", "no"]}
    parts = [small, flag, word, {"type": "null"}]
    pairs = [[a, b] for i, a in enumerate(parts) for b in parts[i + 1 :]]
    either = [{kind: pair} for kind in ("anyOf", "oneOf") for pair in pairs]
    both = [
        {"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 8}]},
        {"allOf": [{"type": "string", "minLength": 2}, {"maxLength": 4}]},
        {
            "type": "object",
            "allOf": [{"properties": {"a": small}, "required": ["a"]}, {"properties": {"b": flag}, "required": ["b"]}],
        },
        {"allOf": [{"anyOf": [small, word]}, {"type": "integer"}]},
        {"type": "array", "allOf": [{"items": small}, {"minItems": 1, "maxItems": 2}]},
        {
            "anyOf": [{"type": "string", "maxLength": 2}, {"type": "array", "items": small, "maxItems": 2}],
            "title": "either",
        },
        {"type": ["integer", "null"], "minimum": 5, "maximum": 6},
        {"type": ["string", "boolean", "null"], "maxLength": 3},
        {"anyOf": [{"const": 1}], "type": "integer"},
    ]
    tagged = {
        "oneOf": [
            {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": small}, "required": ["kind", "lives"]},
            {"type": "object", "properties": {"kind": {"const": "dog"}, "good": flag}, "required": ["kind"]},
        ],
        "discriminator": {"propertyName": "kind"},
    }
    return [*either, *both, tagged]


def _inner() -> list[Schema]:
    """One of each kind inside of an object, of a list, and of a definition."""
    parts: list[Schema] = [
        {"type": "string", "maxLength": 5},
        {"type": "string", "pattern": "^[A-Z][a-z]?$"},
        {"type": "string", "format": "date"},
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 4},
        {"type": "array", "items": {"type": "null"}, "maxItems": 2},
        {"type": "object", "properties": {"x": {"type": "null"}}, "additionalProperties": False},
        {"anyOf": [{"const": 0}, {"const": "zero"}]},
        {"enum": [True, None, 3]},
        {"type": ["integer", "boolean"], "maximum": 9, "minimum": -9},
        {"allOf": [{"type": "integer"}, {"minimum": 1, "maximum": 2}]},
    ]
    return [
        schema
        for part in parts
        for schema in (
            {"type": "object", "properties": {"v": part}, "required": ["v"], "additionalProperties": False},
            {"type": "array", "items": part, "minItems": 1, "maxItems": 2},
            {"type": "array", "items": {"$ref": "#/$defs/part"}, "maxItems": 1, "$defs": {"part": part}},
        )
    ]


def _written() -> list[Schema]:
    tree = {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer", "minimum": 0, "maximum": 9},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["value", "next"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    }
    return [
        tree,
        {
            "type": "array",
            "maxItems": 2,
            "items": {"$ref": "#/definitions/pair"},
            "definitions": {"pair": {"enum": [1, 2]}},
        },
        {
            "type": "object",
            "properties": {"a": {"enum": [1, 2]}, "b": {"$ref": "#/properties/a"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
        {"type": ["array", "null"], "maxItems": 1, "items": {"$ref": "#"}},
        {"$id": "https://schemas.test/it", "$ref": "https://schemas.test/it#/$defs/x", "$defs": {"x": {"const": "x"}}},
        {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"type": "boolean"}}},
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "t",
            "description": "d",
            "default": 1,
            "examples": [2],
            "$comment": "c",
            "readOnly": True,
            "deprecated": False,
            "x-order": 3,
            "type": "boolean",
        },
        {"type": "integer", "format": "int32", "minimum": 0, "maximum": 3},
        {"type": "array", "items": {"type": "boolean"}, "uniqueItems": False, "maxItems": 2},
        {"type": "array", "items": {"type": "boolean"}, "minContains": 2, "maxItems": 2},
        {
            "type": "object",
            "properties": {"a": {"const": 1}},
            "additionalProperties": False,
            "unevaluatedProperties": True,
            "propertyNames": {},
            "dependentRequired": {},
        },
        {"type": "boolean", "then": False, "not": False},
        {"type": "null", "if": {"type": "null"}},
        {"minimum": 3, "maximum": 4, "enum": [3, "three"]},
    ]


def _refused() -> list[Case]:
    """Every keyword that no answer can be held to, in places of all kinds; and values that cannot be."""
    keywords: Mapping[str, Any] = {
        "uniqueItems": True,
        "not": {"type": "null"},
        "if": {"type": "integer"},
        "dependentRequired": {"a": ["b"]},
        "dependentSchemas": {"a": {"type": "object"}},
        "dependencies": {"a": ["b"]},
        "contains": {"type": "integer"},
        "propertyNames": {"pattern": "^a"},
        "unevaluatedProperties": False,
        "unevaluatedItems": False,
        "$dynamicRef": "#node",
        "$recursiveRef": "#",
        "nullable": True,
        "requierd": ["a"],
        "x-guidance": {"lenient": True},
    }
    values: list[tuple[str, Any]] = [
        *keywords.items(),
        ("format", "iri"),
        ("type", "text"),
        ("minLength", -1),
        ("maxItems", 10**9),
        ("minimum", "3"),
        ("const", 2**60),
        ("multipleOf", 0),
        ("enum", []),
        ("required", "a"),
        ("properties", ["a"]),
        ("anyOf", []),
        ("$ref", "#/$defs/missing"),
        ("$ref", "https://schemas.test/other"),
        ("minProperties", 3),
        ("pattern", "(?=look)ahead"),
    ]
    cases = []
    for keyword, value in values:
        extra = {"then": {"const": 1}} if keyword == "if" else {}
        part = {keyword: value, **extra}
        shown = f".{keyword}"
        cases += [
            Case(schema=part, refused=f"${shown}"),
            Case(schema={"type": "object", "properties": {"p": part}}, refused=f"$.properties.p{shown}"),
        ]
    part = {"uniqueItems": True}
    return [
        *cases,
        Case(schema={"items": part}, refused="$.items.uniqueItems"),
        Case(schema={"prefixItems": [True, part]}, refused="$.prefixItems[1].uniqueItems"),
        Case(schema={"anyOf": [{"type": "null"}, part]}, refused="$.anyOf[1].uniqueItems"),
        Case(schema={"additionalProperties": part}, refused="$.additionalProperties.uniqueItems"),
        Case(schema={"patternProperties": {"^a b$": part}}, refused='$.patternProperties["^a b$"].uniqueItems'),
        Case(schema={"$ref": "#/$defs/d", "$defs": {"d": part}}, refused="$.$defs.d.uniqueItems"),
    ]
