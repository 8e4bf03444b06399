"""Schemas keyword by keyword: what is kept, what is refused, and by which path."""

from __future__ import annotations

import json
from typing import Any

import pytest
from schema_table import table

from jaxpaged.errors import GrammarError
from jaxpaged.structured import keywords
from jaxpaged.structured.schema import MAX_DEPTH, MAX_PARTS, normalised, read_schema

CASES = table()
# draft 2020-12's vocabularies, https://json-schema.org/draft/2020-12, and what older drafts had beside them
VOCABULARY = (
    *("$id", "$schema", "$ref", "$anchor", "$dynamicRef", "$dynamicAnchor", "$vocabulary", "$comment", "$defs"),
    *("prefixItems", "items", "contains", "additionalProperties", "properties", "patternProperties"),
    *("dependentSchemas", "propertyNames", "if", "then", "else", "allOf", "anyOf", "oneOf", "not"),
    *("unevaluatedItems", "unevaluatedProperties"),
    *("type", "const", "enum", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"),
    *("maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "maxContains", "minContains"),
    *("maxProperties", "minProperties", "required", "dependentRequired"),
    *("title", "description", "default", "deprecated", "readOnly", "writeOnly", "examples"),
    *("format", "contentEncoding", "contentMediaType", "contentSchema"),
    *("definitions", "dependencies", "additionalItems", "id", "$recursiveRef", "$recursiveAnchor"),
)


def kept(schema: dict[str, Any], **options: bool) -> Any:
    return normalised(read_schema(json.dumps(schema)), **options).schema


def test_the_table_has_300_schemas_and_all_keywords_in_them() -> None:
    assert len(CASES) >= 300
    texts = "".join(json.dumps(case.schema) for case in CASES if case.refused is None)
    assert {keyword for keyword in keywords.ENFORCED if f'"{keyword}"' not in texts} == set()


@pytest.mark.parametrize("keyword", VOCABULARY)
def test_no_keyword_is_passed_over(keyword: str) -> None:
    """Each is enforced, or says nothing of what is valid, or is refused."""
    enforced, noted = keyword in keywords.ENFORCED, keyword in keywords.ANNOTATIONS
    assert not (enforced and noted)
    if not enforced and not noted:
        # minContains counts nothing where nothing is counted, `then` follows on nothing, and so on
        beside = {"contains": True} if "Contains" in keyword else {"if": True} if keyword in ("then", "else") else {}
        beside |= {"then": False} if keyword == "if" else {}
        with pytest.raises(GrammarError) as caught:
            kept({keyword: {"x": ["y"]}, **beside})
        assert keyword in ("then", "else", *("maxContains", "minContains")) or caught.value.name == f"$.{keyword}"


@pytest.mark.parametrize("case", [case for case in CASES if case.refused], ids=lambda case: case.name)
def test_a_refusal_names_path_and_keyword(case: Any) -> None:
    keyword = case.refused.rpartition(".")[2]
    if keyword == "pattern":
        pytest.skip("what is wrong with an expression is said by the library: test_structured_grammar")
    with pytest.raises(GrammarError) as caught:
        kept(case.schema)
    assert caught.value.name == case.refused
    assert keyword in str(caught.value)


@pytest.mark.parametrize("case", [case for case in CASES if not case.refused], ids=lambda case: case.name)
def test_what_is_kept_is_enforced_and_all_that_is(case: Any) -> None:
    """Of every part, the enforced keywords are there and no others."""
    left, seen = [kept(case.schema)], set()
    while left:
        part = left.pop()
        if not isinstance(part, dict):
            continue
        names = set(part) - {"$defs"}
        assert names <= keywords.ENFORCED
        seen |= names
        for name, value in part.items():
            if name in (*keywords.MAPS, "$defs"):
                left += value.values()
            elif name in (*keywords.LISTS, *keywords.SCHEMAS):
                left += value if isinstance(value, list) else [value]
    if '"^id$"' in json.dumps(case.schema):
        seen.add("patternProperties")  # which became a property
    expected = {name for name in keywords.ENFORCED if f'"{name}":' in json.dumps(case.schema)}
    literal = json.dumps([case.schema.get("const"), case.schema.get("enum")])
    assert expected - seen <= {"format", "additionalItems", "items"} | {n for n in expected if f'"{n}"' in literal}


def test_references_are_followed_and_definitions_flat() -> None:
    schema = {
        "properties": {"a": {"$ref": "#/$defs/a~1b%20c"}, "b": {"$ref": "#/$defs/a~1b%20c"}, "c": {"$ref": "#"}},
        "$defs": {
            "a/b c": {"anyOf": [{"$ref": "#/$defs/d"}, {"type": "null"}]},
            "d": {"const": 1},
            "unused": {"not": {}},
        },
    }
    made = normalised(schema)
    assert made.schema["properties"] == {"a": {"$ref": "#/$defs/d0"}, "b": {"$ref": "#/$defs/d0"}, "c": {"$ref": "#"}}
    assert made.schema["$defs"] == {
        "d0": {"anyOf": [{"$ref": "#/$defs/d1"}, {"type": "null"}]},
        "d1": {"const": 1},
    }
    assert made.places == {"d0": '$.$defs["a/b c"]', "d1": "$.$defs.d"}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/b"}}},
    ],
)
def test_definitions_that_say_nothing_but_each_other(schema: dict[str, Any]) -> None:
    with pytest.raises(GrammarError, match="in a circle"):
        kept(schema)


def test_a_definition_may_refer_to_itself_within() -> None:
    assert kept({"anyOf": [{"type": "null"}, {"items": {"$ref": "#"}}]})
    assert kept({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"items": {"$ref": "#/$defs/a"}}}})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "must be a JSON object"),
        ("true", "must be a JSON object"),
        ('{"a"', "must be the JSON text of a schema"),
        ('{"type": "null", "type": "object"}', "'type' is there twice"),
        ("[" * 200 + "]" * 200, f"deeper than {MAX_DEPTH} levels"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "deep"),
        (f'{{"enum": {list(range(MAX_PARTS))}}}', f"more than {MAX_PARTS} parts"),
        ('{"minimum": NaN}', "must be a number"),
        ('{"minimum": ' + "9" * 5000 + "}", "must be the JSON text"),
        ('{"properties": {"id": {"$id": "x"}}}', "names of their own"),
        ('{"$schema": "https://schemas.test/mine"}', "a draft that is not known"),
    ],
)
def test_what_is_no_schema(text: str, said: str) -> None:
    with pytest.raises(GrammarError, match=said):
        normalised(read_schema(text))


def test_closed_objects_have_named_properties_alone() -> None:
    schema = {
        "properties": {"a": {"patternProperties": {"b": True}}, "c": {"properties": {}, "additionalProperties": True}}
    }
    closed = kept(schema, closed=True)
    assert closed["additionalProperties"] is False
    assert closed["properties"]["a"]["additionalProperties"] is False
    assert closed["properties"]["c"]["additionalProperties"] is True


def test_least_properties_beyond_those_that_cannot_be_equal() -> None:
    assert kept({"minProperties": 3, "required": ["a", "b"]})["minProperties"] == 3
    with pytest.raises(GrammarError, match="minProperties: an answer cannot be held to more than 3"):
        kept({"minProperties": 4, "required": ["a", "b", "a"]})


def test_a_pattern_of_one_name_is_a_property() -> None:
    schema = {
        "patternProperties": {"^id$": {"const": 0}, "^a$": {"minimum": 1}, "^b": True},
        "properties": {"a": {"maximum": 2}},
    }
    made = kept(schema, closed=True)
    assert made["properties"] == {"a": {"allOf": [{"maximum": 2}, {"minimum": 1}]}, "id": {"const": 0}}
    assert made["patternProperties"] == {"^b": True}
    assert "patternProperties" not in kept({"patternProperties": {"^id$": True}})
