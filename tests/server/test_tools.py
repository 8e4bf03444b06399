"""Tools and reasoning over /v1/chat/completions: what the model is shown, how its answer is told, what is refused."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from jaxpaged_server.routes import chat, forced
from jaxpaged_server.settings import ServerConfig
from scripted_engine import ScriptedEngine
from served import Served, events_of, served

from jaxpaged.errors import ConfigError, GrammarError
from jaxpaged.sampling_params import SamplingParams
from jaxpaged.structured.params import StructuredOutputsParams
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


async def test_calls_are_told_apart_from_the_content() -> None:
    choice = await answer(TWO, HERMES, tools=[WEATHER, NOW])
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "I look.\n"
    first, second = choice["message"]["tool_calls"]
    assert first["id"].startswith("call_")
    assert first["type"] == "function"
    assert first["function"] == {"name": "weather", "arguments": '{"city": "Zürich"}'}
    assert second["function"] == {"name": "now", "arguments": "{}"}
    choice = await answer(CALL, HERMES, tools=[WEATHER], tool_choice="auto")
    assert choice["message"]["content"] is None


async def test_an_answer_without_calls_is_as_without_tools() -> None:
    assert await answer("It is warm.", HERMES, tools=[WEATHER]) == await answer("It is warm.", {})


async def test_no_call_is_looked_for_where_none_may_be() -> None:
    for body in ({}, {"tools": [WEATHER], "tool_choice": "none"}, {"tools": []}):
        choice = await answer(TWO, HERMES, **body)
        assert choice["message"] == {"role": "assistant", "content": TWO, "refusal": None}
        assert choice["finish_reason"] == "stop"


async def test_one_call_is_told_where_they_may_not_be_parallel() -> None:
    choice = await answer(TWO, HERMES, tools=[WEATHER, NOW], parallel_tool_calls=False)
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["weather"]
    assert choice["finish_reason"] == "tool_calls"


async def test_an_answer_that_is_cut_off_says_so() -> None:
    choice = await answer(CALL, HERMES, tools=[WEATHER], max_tokens=len(TOKENIZER.encode(CALL)) - 15)
    assert choice["finish_reason"] == "length"
    (call,) = choice["message"]["tool_calls"]
    with pytest.raises(json.JSONDecodeError):
        json.loads(call["function"]["arguments"])


async def test_each_of_several_answers_is_read_by_itself() -> None:
    async with served(saying(TWO), **HERMES) as it:
        _, reply = await it.post(PATH, messages=HELLO, tools=[WEATHER, NOW], n=3)
    calls = [call["id"] for choice in reply["choices"] for call in choice["message"]["tool_calls"]]
    assert len(set(calls)) == len(calls) == 6


async def test_a_stream_tells_a_call_before_it_is_whole() -> None:
    async with served(saying(CALL), **HERMES) as it:
        events = await events_of(it, PATH, messages=HELLO, tools=[WEATHER])
    pieces = [event["choices"][0]["delta"].get("tool_calls") for event in events[:-1]]
    assert len([piece for piece in pieces if piece]) > 3
    assert all(event["choices"][0]["delta"] for event in events[:-2]), "an event that tells nothing"


async def test_reasoning_has_both_names_and_can_be_left_out() -> None:
    settings = {"reasoning_parser": "qwen3"}
    message = (await answer(THOUGHT, settings))["message"]
    assert message["reasoning"] == message["reasoning_content"] == "\nA city?\n"
    assert message["content"] == "\n\nIt is warm."
    message = (await answer(THOUGHT, settings, include_reasoning=False))["message"]
    assert message == {"role": "assistant", "content": "\n\nIt is warm.", "refusal": None}
    message = (await answer("<think>\nWhy", settings))["message"]
    assert message["content"] is None


async def test_the_prompt_may_begin_the_reasoning_or_end_it() -> None:
    settings = {"reasoning_parser": "deepseek_v3", "trust_request_chat_template": True}
    begun = "{{ messages[0].content }}<think>\n"
    message = (await answer("A city?</think>Yes.", settings, chat_template=begun))["message"]
    assert (message["reasoning"], message["content"]) == ("A city?", "Yes.")
    cut = (await answer("A city?</think>Yes.", settings, chat_template=begun, truncate_prompt_tokens=6))["message"]
    assert cut == message
    message = (await answer("Yes.", settings, chat_template=f"{begun}</think>"))["message"]
    assert message == {"role": "assistant", "content": "Yes.", "refusal": None}


async def test_a_thoughtful_model_calls() -> None:
    text = f"<think>\nA city?\n</think>\n\n{CALL}"
    choice = await answer(text, {**HERMES, "reasoning_parser": "qwen3"}, tools=[WEATHER])
    assert choice["message"]["reasoning"] == "\nA city?\n"
    assert choice["message"]["content"] is None
    assert len(choice["message"]["tool_calls"]) == 1


async def test_logprobs_and_ids_are_those_of_all_tokens() -> None:
    async with served(saying(CALL), **HERMES) as it:
        body = {"messages": HELLO, "tools": [WEATHER], "logprobs": True, "return_token_ids": True}
        _, reply = await it.post(PATH, **body)
        events = await events_of(it, PATH, **body)
    script = saying(CALL).script
    assert reply["choices"][0]["token_ids"] == script
    assert len(reply["choices"][0]["logprobs"]["content"]) == len(script or ())
    assert [i for event in events[1:-1] for i in event["choices"][0].get("token_ids", ())] == script


async def prompt_of(it: Served, **body: Any) -> str:
    status, reply = await it.post(PATH, messages=HELLO, max_tokens=1, **body)
    assert status == 200, reply
    return TOKENIZER.decode(list(it.engine.streams[-1].ids), skip_special_tokens=False)


async def test_the_template_is_shown_the_tools() -> None:
    shows = "{{ tools | tojson if tools else 'none' }}"
    known = {"type": "function", "function": {**WEATHER["function"], "strict": False}}
    async with served(trust_request_chat_template=True, **HERMES) as it:
        assert json.loads(await prompt_of(it, chat_template=shows, tools=[known, NOW])) == [WEATHER, NOW]
        assert json.loads(await prompt_of(it, chat_template=shows, tools=[NOW], tool_choice="none")) == [NOW]
        assert await prompt_of(it, chat_template=shows, tools=[]) == "none"
    hides: dict[str, Any] = {"exclude_tools_when_tool_choice_none": True}
    async with served(trust_request_chat_template=True, **HERMES, **hides) as it:
        assert await prompt_of(it, chat_template=shows, tools=[NOW], tool_choice="none") == "none"
        assert json.loads(await prompt_of(it, chat_template=shows, tools=[NOW])) == [NOW]


async def test_tokenize_counts_the_tools() -> None:
    async with served() as it:
        status, reply = await it.post("/tokenize", messages=HELLO, tools=[WEATHER, NOW])
        assert status == 200, reply
        status, reply = await it.post("/tokenize", messages=HELLO, tools=[{"type": "function"}])
        assert (status, reply["error"]["param"]) == (400, "tools[0]")


async def test_effort_is_a_variable_of_the_template() -> None:
    shows = "{{ reasoning_effort }}|{{ enable_thinking }}"
    async with served(trust_request_chat_template=True) as it:
        assert await prompt_of(it, chat_template=shows, reasoning_effort="low") == "low|"
        assert await prompt_of(it, chat_template=shows, reasoning_effort="none") == "none|False"
        given = {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}
        assert await prompt_of(it, chat_template=shows, **given) == "none|True"
        status, reply = await it.post(PATH, messages=HELLO, reasoning_effort="lots")
        assert (status, reply["error"]["param"]) == (400, "reasoning_effort")


def function(**fields: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", **fields}}]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"tools": "a"}, "tools"),
    ({"tools": [NOW] * 129}, "tools"),
    ({"tools": ["a"]}, "tools[0]"),
    ({"tools": [{"function": {"name": "f"}}]}, "tools[0]"),
    ({"tools": [{"type": "code", "function": {"name": "f"}}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "name": "f"}]}, "tools[0]"),
    ({"tools": function(name="")}, "tools[0].function.name"),
    ({"tools": function(name="a b")}, "tools[0].function.name"),
    ({"tools": function(name="a\n")}, "tools[0].function.name"),
    ({"tools": function(name="a" * 129)}, "tools[0].function.name"),
    ({"tools": function(description=1)}, "tools[0].function.description"),
    ({"tools": function(parameters=[])}, "tools[0].function.parameters"),
    ({"tools": function(parameters={"type": "string"})}, "tools[0].function.parameters.type"),
    ({"tools": function(parameters={"properties": []})}, "tools[0].function.parameters.properties"),
    ({"tools": function(strict=1)}, "tools[0].function.strict"),
    ({"tools": function(returns="a")}, "tools[0].function"),
    ({"tools": [NOW, WEATHER, NOW]}, "tools[2].function.name"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [], "tool_choice": {"type": "function", "function": {"name": "now"}}}, "tool_choice"),
    ({"tools": [NOW], "tool_choice": "any"}, "tool_choice"),
    ({"tools": [NOW], "tool_choice": {"type": "function"}}, "tool_choice"),
    ({"tools": [NOW], "tool_choice": {"type": "allowed_tools", "function": {"name": "now"}}}, "tool_choice.type"),
    ({"tools": [NOW], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice.function.name"),
    ({"tools": [NOW], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"functions": [{"name": "now"}]}, "functions"),
    ({"function_call": "auto"}, "function_call"),
]


@pytest.mark.parametrize(("body", "place"), BAD)
async def test_what_is_ill_formed_is_refused_by_its_place(body: dict[str, Any], place: str) -> None:
    async with served(**HERMES) as it:
        status, reply = await it.post(PATH, messages=HELLO, **body)
        assert status == 400
        assert reply["error"]["message"].startswith(place)
        assert not it.engine.streams


async def test_the_model_chooses_only_where_the_server_knows_how_it_writes() -> None:
    cases: tuple[dict[str, Any], ...] = ({}, {"tool_call_parser": "hermes"})
    for settings in cases:
        async with served(**settings) as it:
            for body in ({}, {"tool_choice": "auto"}):
                status, reply = await it.post(PATH, messages=HELLO, tools=[NOW], **body)
                assert (status, reply["error"]["param"]) == (400, "tool_choice")
                assert "--enable-auto-tool-choice" in reply["error"]["message"]


def test_parsers_are_known_by_name() -> None:
    with pytest.raises(ConfigError, match=r"tool_call_parser is 'hermess': it must be one of .*hermes"):
        ServerConfig(tool_call_parser="hermess")
    with pytest.raises(ConfigError, match=r"reasoning_parser is 'think': it must be one of .*qwen3"):
        ServerConfig(reasoning_parser="think")
    with pytest.raises(ConfigError, match=r"enable_auto_tool_choice is True: .*--tool-call-parser"):
        ServerConfig(enable_auto_tool_choice=True)
    assert ServerConfig(reasoning_parser="").reasoning_parser == ""


REQUIRED = [
    ({}, '[{"name": "weather", "parameters": {"city": "Zürich"}}]'),
    (HERMES, CALL),
    ({"tool_call_parser": "hermes"}, CALL),
    ({"tool_call_parser": "glm45"}, '[{"name": "weather", "parameters": {"city": "Zürich"}}]'),
]


@pytest.mark.parametrize(("settings", "text"), REQUIRED)
async def test_a_required_call_is_written_as_the_grammar_says(settings: dict[str, Any], text: str) -> None:
    choice = await answer(text, settings, tools=[WEATHER, NOW], tool_choice="required")
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Zürich"}'}
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"


NAMED = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize(("settings", "text"), [({}, '{"city": "Zürich"}'), (HERMES, CALL)])
async def test_a_named_call_ends_as_openais(settings: dict[str, Any], text: str) -> None:
    choice = await answer(text, settings, tools=[NOW, WEATHER], tool_choice=NAMED)
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Zürich"}'}
    assert choice["finish_reason"] == "stop"


async def form_of(it: Served, **body: Any) -> Any:
    """What the engine is to hold the answer to."""
    status, reply = await it.post(PATH, messages=HELLO, max_tokens=1, **body)
    assert status == 200, reply
    form = it.engine.streams[-1].params.structured_outputs
    return None if form is None else json.loads(form.structural_tag or form.json)  # pyright: ignore[reportArgumentType]


async def test_answers_are_held_to_the_schemas() -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    async with served(**HERMES) as it:
        assert await form_of(it, tools=[WEATHER]) is None
        assert await form_of(it, tools=[WEATHER], tool_choice="none") is None
        form = await form_of(it, tools=[WEATHER, NOW], tool_choice="required")
        assert form["format"]["elements"][0]["tags"][0]["content"]["json_schema"] == SCHEMA
        form = await form_of(it, tools=[WEATHER, NOW], tool_choice=NAMED)
        assert len(form["format"]["elements"][0]["tags"]) == 1
        form = await form_of(it, tools=[strict, NOW])
        tags = form["format"]["elements"][0]["tags"]
        assert [tag["content"]["json_schema"] for tag in tags] == [SCHEMA, {"type": "object"}]
        asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}}
        calls, form = (await form_of(it, tools=[strict, NOW], **asked))["format"]["elements"][0]["elements"]
        assert form == {"type": "json_schema", "json_schema": {"type": "object"}}
        tags = calls["elements"][0]["tags"]
        assert [tag["content"]["json_schema"] for tag in tags] == [SCHEMA, {"type": "object"}]
        status, reply = await it.post(PATH, messages=HELLO, tools=[NOW], tool_choice="required", **asked)
        assert (status, reply["error"]["param"]) == (400, "tool_choice")


async def test_a_schema_that_no_answer_can_be_held_to_is_refused_by_its_place() -> None:
    bad = {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"not": {}}}}}}
    tools = [NOW, {"type": "function", "function": {"name": "f", "parameters": bad}}]
    place = "tools[1].function.parameters.properties.a.properties.b.not"
    async with served(**HERMES) as it:
        for choice in ("required", {"type": "function", "function": {"name": "f"}}):
            status, reply = await it.post(PATH, messages=HELLO, tools=tools, tool_choice=choice)
            assert (status, reply["error"]["param"]) == (400, place)
        status, _ = await it.post(PATH, messages=HELLO, tools=tools, max_tokens=1)
        assert status == 200, "the model chooses, and nothing holds it"
        strict = [{**tools[1], "function": {**tools[1]["function"], "strict": True}}]
        status, reply = await it.post(PATH, messages=HELLO, tools=strict)
        assert (status, reply["error"]["param"]) == (400, place.replace("[1]", "[0]"))


async def test_an_answer_of_a_form_may_be_thought_about_first() -> None:
    asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}
    settings = {"reasoning_parser": "qwen3", "trust_request_chat_template": True}
    begun = {"chat_template": "{{ messages[0].content }}<think>\n"}
    message = (await answer('A city?</think>\n\n{"city": "Bern"}', settings, **asked, **begun))["message"]
    assert message["reasoning"] == "A city?"
    assert json.loads(message["content"]) == {"city": "Bern"}
    async with served(**settings) as it:
        form = await form_of(it, **asked, **begun)
        assert form["format"]["elements"][-1] == {"type": "json_schema", "json_schema": SCHEMA}
        assert await form_of(it, **asked, chat_template="<think>\n\n</think>\n\n") == SCHEMA


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
