"""Tools on a real server. Its model knows nothing of tools: what is right is so by the grammar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from real_server import RealServer, real_server

pytestmark = pytest.mark.long
PATH = "/v1/chat/completions"
SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": {
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
        "$defs": {"city": {"enum": ["Bern", "Zürich"]}},
        "additionalProperties": False,
    },
    "note": {
        "type": "object",
        "properties": {"text": {"type": "string", "maxLength": 12}},
        "required": ["text"],
        "additionalProperties": False,
    },
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMAS[name]}} for name in SCHEMAS]


@pytest.fixture(scope="module", params=[None, "hermes", "deepseek_v31"])
def server(request: pytest.FixtureRequest) -> Iterator[RealServer]:
    flags = [] if request.param is None else ["--tool-call-parser", request.param, "--enable-auto-tool-choice"]
    with real_server("--max-num-seqs", "8", "--max-model-len", "512", *flags) as server:
        server.wait_ready()
        yield server
        assert server.metric("jaxpaged:engine_restarts_total") == 0
        assert not [line for line in server.lines if "Traceback" in line]


def choices(server: RealServer, **body: Any) -> list[dict[str, Any]]:
    messages = [{"role": "user", "content": "hello"}]
    status, reply = server.request(PATH, {"messages": messages, "tools": TOOLS, "max_tokens": 300, **body})
    assert status == 200, reply
    return reply["choices"]


def called(choice: dict[str, Any]) -> list[str]:
    """Names of the calls, each of which is valid; there is nothing else."""
    assert choice["message"]["content"] is None
    calls = choice["message"]["tool_calls"]
    for call in calls:
        jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMAS[call["function"]["name"]])
    return [call["function"]["name"] for call in calls]


def test_every_one_of_several_drawn_answers_is_valid_calls(server: RealServer) -> None:
    told = choices(server, tool_choice="required", parallel_tool_calls=False, n=6, seed=5, temperature=1.0)
    assert {choice["finish_reason"] for choice in told} == {"tool_calls"}
    assert {len(called(choice)) for choice in told} == {1}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_named_function_is_the_one_that_is_called(server: RealServer, name: str) -> None:
    choice = {"type": "function", "function": {"name": name}}
    for told in choices(server, tool_choice=choice, n=3, seed=2, temperature=1.0, logprobs=True):
        assert called(told) == [name]
        assert told["finish_reason"] == "stop"
        assert told["logprobs"]["content"]


def test_a_bad_tool_ends_its_own_request_alone(server: RealServer) -> None:
    bad = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"not": {}}}}}}
    body = {"messages": [{"role": "user", "content": "hello"}], "tools": [bad], "tool_choice": "required"}
    status, reply = server.request(PATH, body)
    assert (status, reply["error"]["param"]) == (400, "tools[0].function.parameters.properties.a.not")
    (told,) = choices(server, tool_choice="required", parallel_tool_calls=False, temperature=0)
    assert len(called(told)) == 1
