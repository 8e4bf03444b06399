# pyright: reportMissingImports=false
"""Calls of tools that an answer must hold, whole and as they come, by the openai package."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import TestCase

import openai
from openai import OpenAI

sys.path.append(str(Path(__file__).parents[1]))

from shapes import Order, check_order

equal = TestCase().assertEqual
CODE = {"type": "string", "pattern": "^[a-z]{2,6}$"}
CANCEL = {"type": "object", "properties": {"code": CODE}, "required": ["code"], "additionalProperties": False}


def check_tools(client: OpenAI, expected: dict[str, Any], model: str) -> None:
    """With a conversation of `expected`; which tool is called, and with what, is the model's business."""
    tools = [
        {"type": "function", "function": {"name": "place", "parameters": expected["structured"]["schema"]}},
        {"type": "function", "function": {"name": "cancel", "description": "Undo it.", "parameters": CANCEL}},
    ]
    messages = expected["chat"]["messages"]
    asked = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 512, "tools": tools}
    check_required(client, {**asked, "parallel_tool_calls": False})
    check_named(client, asked)
    check_stream(client, {**asked, "parallel_tool_calls": False})
    check_types(client, {**asked, "parallel_tool_calls": False})
    check_next_turn(client, {**asked, "parallel_tool_calls": False})
    check_refusals(client, asked)


def check_required(client: OpenAI, asked: dict[str, Any]) -> None:
    reply = client.chat.completions.create(**asked, tool_choice="required")
    (choice,) = reply.choices
    equal(choice.finish_reason, "tool_calls")
    (call,) = choice.message.tool_calls or []
    check_call(call.function.name, call.function.arguments)
    assert call.id
    equal(call.type, "function")
    assert not choice.message.content
    several = client.chat.completions.create(**{**asked, "temperature": 1, "seed": 5}, n=3, tool_choice="required")
    calls = [choice.message.tool_calls[0] for choice in several.choices if choice.message.tool_calls]
    equal(len({call.id for call in calls}), 3)
    for call in calls:
        check_call(call.function.name, call.function.arguments)


def check_call(name: str, arguments: str) -> None:
    if name == "place":
        check_order(arguments)
        return
    equal(name, "cancel")
    (key, code), *more = json.loads(arguments).items()
    equal((key, more), ("code", []))
    assert 2 <= len(code) <= 6


def check_named(client: OpenAI, asked: dict[str, Any]) -> None:
    for name in ("place", "cancel"):
        named: Any = {"type": "function", "function": {"name": name}}
        reply = client.chat.completions.create(**asked, tool_choice=named)
        (call,) = reply.choices[0].message.tool_calls or []
        equal(call.function.name, name)
        check_call(name, call.function.arguments)


def check_stream(client: OpenAI, asked: dict[str, Any]) -> None:
    whole = client.chat.completions.create(**asked, tool_choice="required").choices[0]
    name, arguments, identities, ends = "", "", [], []
    for event in client.chat.completions.create(**asked, tool_choice="required", stream=True):
        for choice in event.choices:
            ends += [choice.finish_reason] if choice.finish_reason else []
            for delta in choice.delta.tool_calls or []:
                equal(delta.index, 0)
                identities += [delta.id] if delta.id else []
                assert delta.function is not None
                name += delta.function.name or ""
                arguments += delta.function.arguments or ""
    (call,) = whole.message.tool_calls or []
    equal((name, arguments, ends), (call.function.name, call.function.arguments, ["tool_calls"]))
    equal(len(identities), 1)


def check_types(client: OpenAI, asked: dict[str, Any]) -> None:
    """The package makes the tool of a type, and an object of the arguments."""
    tools = {"tools": [openai.pydantic_function_tool(Order)]}
    reply = client.chat.completions.parse(**{**asked, **tools}, tool_choice="required")
    (call,) = reply.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Order)
    with client.chat.completions.stream(**{**asked, **tools}, tool_choice="required") as stream:
        final = stream.get_final_completion()
    (again,) = final.choices[0].message.tool_calls or []
    equal(again.function.parsed_arguments, call.function.parsed_arguments)


def check_next_turn(client: OpenAI, asked: dict[str, Any]) -> None:
    """What was called goes back with what came of it."""
    said = client.chat.completions.create(**asked, tool_choice="required").choices[0].message
    (call,) = said.tool_calls or []
    back = [*asked["messages"], said, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
    reply = client.chat.completions.create(**{**asked, "messages": back, "max_tokens": 4}, tool_choice="none")
    assert not reply.choices[0].message.tool_calls
    assert reply.choices[0].message.content


def check_refusals(client: OpenAI, asked: dict[str, Any]) -> None:
    bad = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    other: Any = {"type": "function", "function": {"name": "other"}}
    cases: list[tuple[str, dict[str, Any]]] = [
        ("tool_choice.function.name", {"tool_choice": other}),
        (
            "tools[0].function.parameters.properties.a.uniqueItems",
            {"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "a", "parameters": bad}}]},
        ),
    ]
    for param, fields in cases:
        try:
            client.chat.completions.create(**{**asked, **fields})
        except openai.BadRequestError as error:
            equal(error.param, param)
            continue
        raise AssertionError(f"{fields} were taken")
