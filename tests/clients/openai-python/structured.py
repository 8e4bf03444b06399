# pyright: reportMissingImports=false
"""Answers of a form, by all the ways that the openai package has to ask for one."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any
from unittest import TestCase

import openai
from openai import OpenAI

sys.path.append(str(Path(__file__).parents[1]))

from shapes import Order, check_order

equal = TestCase().assertEqual


def check_structured(client: OpenAI, expected: dict[str, Any], model: str) -> None:
    """With a conversation of `expected`, and the answers that the engine gives for the same forms."""
    asked = {"model": model, "messages": expected["chat"]["messages"], "temperature": 0}
    check_json_schema(client, asked, expected["structured"])
    check_parse(client, asked, expected["structured"])
    check_stream(client, asked, expected["structured"])
    check_several(client, asked)
    check_json_object(client, asked, expected["structured"])
    check_other_forms(client, asked, expected["structured"])
    check_refusals(client, asked)


def check_json_schema(client: OpenAI, asked: dict[str, Any], structured: dict[str, Any]) -> None:
    schema = {"name": "order", "schema": structured["schema"], "strict": True}
    reply = client.chat.completions.create(**asked, response_format={"type": "json_schema", "json_schema": schema})
    equal(reply.choices[0].message.content, structured["json"])
    equal(reply.choices[0].finish_reason, "stop")
    check_order(reply.choices[0].message.content)
    text = client.chat.completions.create(**asked, max_tokens=4, response_format={"type": "text"})
    equal(text.choices[0].finish_reason, "length")


def check_parse(client: OpenAI, asked: dict[str, Any], structured: dict[str, Any]) -> None:
    """The package makes the schema of the type, and an object of the answer."""
    reply = client.chat.completions.parse(**asked, response_format=Order)
    message = reply.choices[0].message
    assert isinstance(message.parsed, Order)
    check_order(message.content, structured["json"])
    assert message.refusal is None


def check_stream(client: OpenAI, asked: dict[str, Any], structured: dict[str, Any]) -> None:
    told = ""
    with client.chat.completions.stream(**asked, response_format=Order) as stream:
        for event in stream:
            if event.type == "content.delta":
                told += event.delta
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Order)
    check_order(told, structured["json"])


def check_several(client: OpenAI, asked: dict[str, Any]) -> None:
    """Drawn answers differ, and each is one."""
    reply = client.chat.completions.parse(**{**asked, "temperature": 1, "seed": 7}, n=4, response_format=Order)
    texts = [choice.message.content for choice in reply.choices]
    for text in texts:
        check_order(text)
    assert len(set(texts)) > 1, "four draws are the same"


def check_json_object(client: OpenAI, asked: dict[str, Any], structured: dict[str, Any]) -> None:
    """The bracket that ends it is made likely: what a tiny model would put into an object is nobody's business."""
    bias = {str(structured["brace"]): 100}
    reply = client.chat.completions.create(**asked, response_format={"type": "json_object"}, logit_bias=bias)
    assert isinstance(json.loads(reply.choices[0].message.content or ""), dict)
    equal(reply.choices[0].finish_reason, "stop")


def check_other_forms(client: OpenAI, asked: dict[str, Any], structured: dict[str, Any]) -> None:
    """vLLM's `structured_outputs`, and completions beside chat."""

    def said(**form: Any) -> str:
        reply = client.chat.completions.create(**asked, extra_body={"structured_outputs": form})
        equal(reply.choices[0].finish_reason, "stop")
        return reply.choices[0].message.content or ""

    equal(said(choice=["yes", "no"]), structured["choice"])
    assert said(choice=["yes", "no"]) in ("yes", "no")
    assert re.fullmatch(r"[A-F]{3}-[0-9]{2}", said(regex=r"[A-F]{3}-[0-9]{2}"))
    assert said(grammar='start: "a" ("b" | "c") "d"') in ("abd", "acd")
    check_order(said(json=structured["schema"]), structured["json"])
    check_order(said(json=json.dumps(structured["schema"])), structured["json"])
    body = {"structured_outputs": {"choice": ["yes", "no"]}}
    reply = client.completions.create(model=asked["model"], prompt="a", temperature=0, extra_body=body)
    assert reply.choices[0].text in ("yes", "no")


def check_refusals(client: OpenAI, asked: dict[str, Any]) -> None:
    unique = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    named = {"type": "json_schema", "json_schema": {"name": "a", "schema": unique}}
    place = "properties.a.uniqueItems"
    cases: list[tuple[str, dict[str, Any]]] = [
        # the param, what is asked for
        (f"response_format.json_schema.schema.{place}", {"response_format": named}),
        (f"structured_outputs.json.{place}", {"extra_body": {"structured_outputs": {"json": unique}}}),
        ("structured_outputs.regex", {"extra_body": {"structured_outputs": {"regex": "("}}}),
        ("structured_outputs.grammar", {"extra_body": {"structured_outputs": {"grammar": "start: other"}}}),
        ("guided_json", {"extra_body": {"guided_json": unique}}),
        ("response_format.type", {"response_format": {"type": "xml"}}),
    ]
    for param, fields in cases:
        for stream in (False, True):
            try:
                client.chat.completions.create(**asked, **fields, stream=stream)
            except openai.BadRequestError as error:
                equal(error.param, param)
                continue
            raise AssertionError(f"{fields} were taken")
