"""What the tests of tools ask over /v1/chat/completions, and how they read the answers."""

from __future__ import annotations

import json
from typing import Any

from scripted_engine import ScriptedEngine
from served import Served, events_of, served

from jaxpaged.tiny import TINY_MODEL
from jaxpaged.tokenize import Tokenizer

TOKENIZER = Tokenizer.load(TINY_MODEL)
PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": SCHEMA}}
NOW = {"type": "function", "function": {"name": "now"}}
HERMES: dict[str, Any] = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
TWO = f'I look.\n{CALL}\n<tool_call>\n{{"name": "now", "arguments": {{}}}}\n</tool_call>'
THOUGHT = "<think>\nA city?\n</think>\n\nIt is warm."
NAMED = {"type": "function", "function": {"name": "weather"}}


def saying(text: str, **options: Any) -> ScriptedEngine:
    """An engine whose model says this."""
    script = [*TOKENIZER.encode(text, add_special_tokens=False), TOKENIZER.eos_ids[0]]
    return ScriptedEngine(script=script, **options)


async def answer(text: str, settings: dict[str, Any], **body: Any) -> dict[str, Any]:
    """The choice of a reply; that of a stream must be the same, but for ids."""
    async with served(saying(text), **settings) as it:
        status, reply = await it.post(PATH, messages=HELLO, **body)
        assert status == 200, reply
        (choice,) = reply["choices"]
        assert await streamed(it, **body) == without_ids(choice)
    return choice


async def streamed(it: Served, **body: Any) -> dict[str, Any]:
    """What the events of a stream tell together, as clients put them together."""
    message: dict[str, Any] = {}
    calls: list[dict[str, Any]] = []
    told: dict[str, Any] = {"logprobs": None, "index": 0}
    for event in (await events_of(it, PATH, messages=HELLO, **body))[:-1]:
        (choice,) = event["choices"]
        delta = choice["delta"]
        for call in delta.pop("tool_calls", ()):
            if call["index"] == len(calls):
                assert call["id"]
                assert call["type"] == "function"
                calls.append({"type": "function", "function": {"name": call["function"]["name"], "arguments": ""}})
            else:
                assert call.keys() == {"index", "function"}
                assert call["function"].keys() == {"arguments"}
            calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
        for name, text in delta.items():
            message[name] = message.get(name, "") + text
        if choice["finish_reason"]:
            told |= {"finish_reason": choice["finish_reason"], "stop_reason": choice["stop_reason"]}
    message |= {"refusal": None, **({"tool_calls": calls} if calls else {})}
    message["content"] = message["content"] or (None if calls or "reasoning" in message else "")
    return {**told, "message": message}


def without_ids(choice: dict[str, Any]) -> dict[str, Any]:
    message = dict(choice["message"])
    if "tool_calls" in message:
        assert len({call["id"] for call in message["tool_calls"]}) == len(message["tool_calls"])
        message["tool_calls"] = [{k: v for k, v in call.items() if k != "id"} for call in message["tool_calls"]]
    return {**choice, "message": message}


async def form_of(it: Served, **body: Any) -> Any:
    """What the engine is to hold the answer to."""
    status, reply = await it.post(PATH, messages=HELLO, max_tokens=1, **body)
    assert status == 200, reply
    form = it.engine.streams[-1].params.structured_outputs
    return None if form is None else json.loads(form.structural_tag or form.json)  # pyright: ignore[reportArgumentType]
