"""Tools beside what else holds an answer: forms, reasoning, beam searches; and where the work of it is done."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from jaxpaged_server.routes import chat, forced
from served import served
from tools_asked import CALL, HELLO, HERMES, NAMED, NOW, PATH, SCHEMA, WEATHER, answer, form_of

from jaxpaged.errors import GrammarError
from jaxpaged.sampling_params import SamplingParams
from jaxpaged.structured.params import StructuredOutputsParams

OBJECT = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"tools": [WEATHER], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": NAMED}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {**WEATHER["function"], "strict": True}}]}, "tools"),
    ],
)
async def test_a_beam_search_is_held_to_no_calls(fields: dict[str, Any], place: str) -> None:
    async with served(**HERMES) as it:
        status, reply = await it.post(PATH, messages=HELLO, n=2, use_beam_search=True, max_tokens=2, **fields)
        assert (status, reply["error"]["param"]) == (400, place), reply
        status, reply = await it.post(
            PATH, messages=HELLO, n=2, use_beam_search=True, max_tokens=2, tools=[WEATHER], tool_choice="auto"
        )
        assert status == 200, reply


async def test_a_form_and_tools_are_refused_where_no_grammar_says_how_calls_are_written() -> None:
    async with served(enable_auto_tool_choice=True, tool_call_parser="glm45") as it:
        status, reply = await it.post(PATH, messages=HELLO, tools=[WEATHER], **OBJECT)
        assert (status, reply["error"]["param"]) == (400, "response_format.json_schema.schema"), reply
        assert "choose to call tools" in reply["error"]["message"]
        tag = {"structural_tag": {"type": "structural_tag", "format": {"type": "any_text"}}}
        assert await form_of(it, tools=[WEATHER], structured_outputs=tag) == tag["structural_tag"]
        assert await form_of(it, tools=[WEATHER], tool_choice="none", **OBJECT) == SCHEMA


async def test_a_model_that_is_held_to_a_form_may_call() -> None:
    choice = await answer(CALL, HERMES, tools=[WEATHER], **OBJECT)
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["weather"]
    choice = await answer('{"city": "Bern"}', HERMES, tools=[WEATHER], **OBJECT)
    assert json.loads(choice["message"]["content"]) == {"city": "Bern"}


def refusing(kind: str, name: str) -> Any:
    """Says of forms of this kind that no grammar can be made of them, with a place within."""

    def look(form: StructuredOutputsParams) -> None:
        if form.kind == kind:
            raise GrammarError(name=name, value="it", limit="it is too long")

    return look


@pytest.mark.parametrize("name", ["structural_tag", "$.format.elements[2]"])
async def test_what_is_wrong_with_a_form_after_thoughts_has_its_place_in_the_body(name: str) -> None:
    begun = {"chat_template": "{{ messages[0].content }}<think>\n"}
    settings = {"reasoning_parser": "qwen3", "trust_request_chat_template": True}
    async with served(look=refusing("structural_tag", name), **settings) as it:
        status, reply = await it.post(PATH, messages=HELLO, **begun, **OBJECT)
        assert (status, reply["error"]["param"]) == (400, "response_format.json_schema.schema")
        status, reply = await it.post(PATH, messages=HELLO, **begun, structured_outputs={"choice": ["a", "b"]})
        assert (status, reply["error"]["param"]) == (400, "structured_outputs.choice")


async def test_json_of_tools_is_laid_out_as_that_of_forms() -> None:
    looked: list[StructuredOutputsParams] = []
    for config, compact in (({}, False), ({"disable_any_whitespace": True}, True)):
        async with served(look=looked.append, structured_outputs_config=config, **HERMES) as it:
            await form_of(it, tools=[WEATHER], tool_choice="required")
            form = it.engine.streams[-1].params.structured_outputs
            assert {one.disable_any_whitespace for one in [*looked, form]} == {compact}
        looked.clear()


async def test_tools_are_looked_through_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def watched(work: Any) -> Any:
        def do(*args: Any, **options: Any) -> Any:
            threads.append(threading.current_thread().name)
            return work(*args, **options)

        return do

    monkeypatch.setattr(chat, "plan_tools", watched(chat.plan_tools))
    monkeypatch.setattr(forced, "forced_calls", watched(forced.forced_calls))
    monkeypatch.setattr(forced, "form_or_calls", watched(forced.form_or_calls))
    long = {"type": "function", "function": {**NOW["function"], "description": "a" * 3000}}
    async with served(**HERMES) as it:
        for body in ({"tool_choice": "required"}, OBJECT):
            status, reply = await it.post(PATH, messages=HELLO, tools=[long], max_tokens=1, **body)
            assert status == 200, reply
    assert len(threads) == 4
    assert threading.main_thread().name not in threads


async def test_parameters_are_checked_once_however_many_answers_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    check = SamplingParams.__post_init__

    def watched(params: SamplingParams) -> None:
        checked.append(params)
        check(params)

    monkeypatch.setattr(SamplingParams, "__post_init__", watched)
    async with served() as it:
        counts = []
        for n in (1, 8):
            checked.clear()
            status, reply = await it.post(PATH, messages=HELLO, n=n, seed=5, allowed_token_ids=[1, 2], max_tokens=1)
            assert status == 200, reply
            counts.append(len(checked))
        assert {stream.params.seed for stream in it.engine.streams[-8:]} == {*range(5, 13)}
    assert counts[0] == counts[1]
