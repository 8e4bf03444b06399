"""What form an answer may be asked to have."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import pytest

from jaxpaged.errors import ParameterError
from jaxpaged.structured.params import MAX_CHARACTERS, MAX_CHOICES, StructuredOutputsParams


def test_objects_are_kept_as_texts_in_their_order() -> None:
    params = StructuredOutputsParams(json={"b": {"const": "é"}, "a": True})
    assert params.json == '{"b":{"const":"é"},"a":true}'
    assert params.kind == "json"
    assert hash(params) == hash(StructuredOutputsParams(json=params.json))
    assert StructuredOutputsParams(choice=["b", "a", "b"]).choice == ("b", "a")


@pytest.mark.parametrize(
    ("options", "name", "said"),
    [
        ({}, "structured_outputs", "exactly one of json, json_object, regex"),
        ({"regex": "a", "choice": ["b"]}, "structured_outputs", "exactly one"),
        ({"json": [1]}, "json", "must be a JSON object"),
        ({"json": True}, "json", "must be a JSON object"),
        ({"json": ""}, "json", "not empty"),
        ({"json": {"a": object()}}, "json", "that JSON can hold"),
        ({"json": {"a": float("nan")}}, "json", "that JSON can hold"),
        ({"json_object": False}, "json_object", "it must be True"),
        ({"json_object": 1}, "json_object", "it must be True"),
        ({"regex": 5}, "regex", "must be a text"),
        ({"regex": ""}, "regex", "not empty"),
        ({"regex": "\ud800"}, "regex", "UTF-8"),
        ({"regex": "a" * (MAX_CHARACTERS + 1)}, "regex", f"at most {MAX_CHARACTERS}"),
        ({"grammar": ["start: A"]}, "grammar", "must be a text"),
        ({"choice": []}, "choice", "not empty"),
        ({"choice": "yes"}, "choice", "a list of texts"),
        ({"choice": ["a", 1]}, "choice", "must be a text"),
        ({"choice": ["a", ""]}, "choice", "not empty"),
        ({"choice": [str(i) for i in range(MAX_CHOICES + 1)]}, "choice", f"at most {MAX_CHOICES}"),
        ({"choice": ["a" * MAX_CHARACTERS, "b"]}, "choice", f"at most {MAX_CHARACTERS}"),
        ({"structural_tag": 3}, "structural_tag", "must be a JSON object"),
        ({"json_object": True, "disable_any_whitespace": 1}, "disable_any_whitespace", "True or False"),
        ({"json_object": True, "whitespace_pattern": ""}, "whitespace_pattern", "not empty"),
        (
            {"json_object": True, "whitespace_pattern": " ", "disable_any_whitespace": True},
            "whitespace_pattern",
            "there is none",
        ),
    ],
)
def test_a_refusal_names_the_field(options: dict[str, Any], name: str, said: str) -> None:
    with pytest.raises(ParameterError, match=said) as caught:
        StructuredOutputsParams(**options)
    assert caught.value.name == name


def test_a_schema_nested_too_deeply_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(100_000):
        schema = {"items": schema}
    with pytest.raises(ParameterError, match="nested too deeply"):
        StructuredOutputsParams(json=schema)
    while schema:  # taken apart one by one: to free it at once recurses as deep
        schema = schema.pop("items")


def test_they_cross_to_another_process() -> None:
    params = StructuredOutputsParams(json={"type": "null"}, disable_any_whitespace=True)
    assert pickle.loads(pickle.dumps(params)) == params
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=StructuredOutputsParams) == params
    choice = StructuredOutputsParams(choice=["a", "b"])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(choice), type=StructuredOutputsParams) == choice
