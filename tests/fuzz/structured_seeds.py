"""Forms that answers can be held to, as bodies say them: what the fuzz test changes, and what it puts in instead."""

from __future__ import annotations

from typing import Any

PERSON: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "person",
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 20, "description": "of the person"},
        "age": {"type": "integer", "minimum": 0, "exclusiveMaximum": 150},
        "mail": {"type": ["string", "null"], "format": "email"},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,8}$"}, "minItems": 1, "maxItems": 3},
        "friends": {"type": "array", "items": {"$ref": "#/$defs/friend"}, "prefixItems": [{"type": "null"}]},
        "kind": {"enum": ["a", 1, None, True, {"b": [1.5]}]},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
    "$defs": {
        "friend": {
            "anyOf": [{"$ref": "#"}, {"type": "number", "multipleOf": 0.5}, {"const": "none"}],
        },
    },
}
LOOSE: dict[str, Any] = {
    "type": "object",
    "patternProperties": {"^x_[a-z]{1,3}$": {"type": "integer"}},
    "additionalProperties": {"oneOf": [{"type": "boolean"}, {"type": "string", "format": "date-time"}]},
    "minProperties": 1,
    "maxProperties": 4,
    "allOf": [{"properties": {"y": {"type": "number"}}}],
}
LARK = (
    'start: head body+ "."\nhead: /[A-Z][a-z]{0,8}/\nbody: " " (word | "(" body ")")\nword: /[a-z]+/ | /[0-9]{1,4}/\n'
)
GBNF = 'root ::= "[" item ("," item)* "]"\nitem ::= [0-9]+ | "\\"" [a-z]* "\\""\n'
STRUCTURES: dict[str, Any] = {
    "structures": [
        {"begin": "<f=a>", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}, "end": "</f>"},
        {"begin": "<f=b>", "schema": {"type": "string"}, "end": "</f>"},
    ],
    "triggers": ["<f="],
}
TREE: dict[str, Any] = {
    "format": {
        "type": "sequence",
        "elements": [
            {"type": "const_string", "value": "a: "},
            {
                "type": "or",
                "elements": [
                    {"type": "regex", "pattern": "[0-9]{1,3}"},
                    {"type": "json_schema", "json_schema": {"type": "array", "items": {"type": "boolean"}}},
                ],
            },
            {
                "type": "triggered_tags",
                "triggers": ["<"],
                "tags": [{"type": "tag", "begin": "<a>", "content": {"type": "any_text"}, "end": "</a>"}],
                "at_least_one": True,
                "stop_after_first": False,
            },
        ],
    }
}
SEEDS: tuple[dict[str, Any], ...] = (
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": PERSON, "strict": True}}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": LOOSE}}},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "structural_tag", **STRUCTURES}},
    {"response_format": {"type": "structural_tag", **TREE}},
    {"structured_outputs": {"json": PERSON, "disable_any_whitespace": True}},
    {"structured_outputs": {"json": LOOSE, "whitespace_pattern": "[ \\n]?", "disable_additional_properties": True}},
    {"structured_outputs": {"regex": "(ab?c|[x-z]{2,5})+ (\\d{1,3}\\.){3}\\d{1,3}"}},
    {"structured_outputs": {"choice": ["yes", "no", 'per"haps', "ja / nein"]}},
    {"structured_outputs": {"grammar": LARK}},
    {"structured_outputs": {"grammar": GBNF}},
    {"structured_outputs": {"structural_tag": STRUCTURES}},
    {"structured_outputs": {"structural_tag": TREE}},
)
OTHERS: tuple[Any, ...] = (
    # schemas
    *({"$ref": "#"}, {"$ref": "#/$defs/friend"}, {"$ref": "#/properties/name"}, {"not": {}}, {"uniqueItems": True}),
    *({"type": "object"}, {"type": []}, {"type": ["string", "string"]}, {"enum": []}, {"const": None}, {"anyOf": []}),
    *({"if": {}, "then": False}, {"minItems": 3, "maxItems": 1}, {"minimum": 1, "maximum": 0}, {"multipleOf": 0}),
    *({"allOf": [{"type": "string"}, {"type": "integer"}]}, {"pattern": "(?=a)"}, {"pattern": "\\bx"}, {"format": "x"}),
    *({"maxLength": 10**6}, {"maxItems": 10**9}, {"minLength": 2**31}, {"required": ["z"]}, {"x-guidance": {}}, False),
    # expressions
    *(
        "(a{1,1000}){1,1000}",
        "((((a*)*)*)*)*",
        "(a|b|ab)*c{500}",
        "[^\\s\\S]",
        "\\p{L}+",
        "(?i)a",
        "a{2,1}",
        "\\",
        "(?<!a)b",
    ),
    *(".{0,5000}x", "[a-", "(?P<a>b)", "\\1", "$^", "(x+x+)+y", "\\x{10FFFF}", "a" * 4000, "[" + "a-b" * 1000 + "]"),
    # grammars
    *(
        "start: start",
        "start: a\na: b\nb: a",
        'start: "a" start | "a"',
        "start: /(/",
        "start: other",
        "start: (start)*",
    ),
    *('start: ("a"|"b")~1..100000', "start: %json {}", 'start: %json {"not": {}}', "%ignore / /\nstart: /a/", "start:"),
    *(
        "root ::= root",
        "root ::= [^",
        'root ::= "a"{1,1000000}',
        "start: <[0]>",
        "start: <[99999999]>",
        "start[lazy]: /a*/",
    ),
)
