"""Answers of a form over HTTP, in front of a scripted engine: the ways to ask, what is refused and how it is named, and
that each form is looked at once, beside the event loop."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from jaxpaged_server.access.keys import ANONYMOUS, Key
from jaxpaged_server.forms import Forms
from scripted_engine import ScriptedEngine, ScriptedStream
from served import events_of, served

from jaxpaged.errors import GrammarError
from jaxpaged.mask_filler import UNKEPT
from jaxpaged.structured.params import MAX_CHARACTERS, StructuredOutputsParams

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
LEAST: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2},
    COMPLETIONS: {"prompt": "a", "max_tokens": 2},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
TAG = {"structures": [{"begin": "<a>", "schema": SCHEMA, "end": "</a>"}], "triggers": ["<a>"]}
TREE = {"format": {"type": "const_string", "value": "a"}}


def by_schema(schema: Any, **more: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, **more}}}


def by_outputs(**fields: Any) -> dict[str, Any]:
    return {"structured_outputs": fields}


ASKED: list[tuple[dict[str, Any], StructuredOutputsParams | None]] = [
    ({}, None),
    ({"response_format": None, "structured_outputs": None}, None),
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, StructuredOutputsParams(json_object=True)),
    (by_schema(SCHEMA, strict=True, description="a thing"), StructuredOutputsParams(json=SCHEMA)),
    (by_schema(SCHEMA, strict=False), StructuredOutputsParams(json=SCHEMA)),
    (
        {"response_format": {"type": "structural_tag", **TAG}},
        StructuredOutputsParams(structural_tag={"type": "structural_tag", **TAG}),
    ),
    (
        {"response_format": {"type": "structural_tag", **TREE}},
        StructuredOutputsParams(structural_tag={"type": "structural_tag", **TREE}),
    ),
    ({"response_format": {"type": "text"}, **by_outputs(regex="a+")}, StructuredOutputsParams(regex="a+")),
    (by_outputs(json=SCHEMA), StructuredOutputsParams(json=SCHEMA)),
    (by_outputs(json=json.dumps(SCHEMA)), StructuredOutputsParams(json=json.dumps(SCHEMA))),
    (by_outputs(json_object=True), StructuredOutputsParams(json_object=True)),
    (by_outputs(choice=["a", "b"]), StructuredOutputsParams(choice=["a", "b"])),
    (by_outputs(grammar='start: "a"', regex=None), StructuredOutputsParams(grammar='start: "a"')),
    (by_outputs(grammar='root ::= "a"'), StructuredOutputsParams(grammar='root ::= "a"')),
    (by_outputs(structural_tag=TAG), StructuredOutputsParams(structural_tag=TAG)),
    (
        by_outputs(json=SCHEMA, disable_any_whitespace=True, disable_additional_properties=True),
        StructuredOutputsParams(json=SCHEMA, disable_any_whitespace=True, disable_additional_properties=True),
    ),
    (
        by_outputs(json_object=True, whitespace_pattern=" ?"),
        StructuredOutputsParams(json_object=True, whitespace_pattern=" ?"),
    ),
]
UNIQUE = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    # what is asked, the param of the error, words of its message
    (by_schema(UNIQUE), "response_format.json_schema.schema.properties.a.uniqueItems", "uniqueItems"),
    (by_outputs(json=UNIQUE), "structured_outputs.json.properties.a.uniqueItems", "uniqueItems"),
    (by_outputs(json=json.dumps(UNIQUE)), "structured_outputs.json.properties.a.uniqueItems", "uniqueItems"),
    (
        by_schema({"properties": {"a b": {"not": {}}}}),
        'response_format.json_schema.schema.properties["a b"].not',
        "not",
    ),
    (by_schema({"type": "text"}), "response_format.json_schema.schema.type", "string"),
    (by_schema({"$ref": "http://127.0.0.1/a"}), "response_format.json_schema.schema.$ref", "ref"),
    (by_outputs(json="{"), "structured_outputs.json", "JSON"),
    (by_outputs(json=""), "structured_outputs.json", "empty"),
    (by_outputs(regex="("), "structured_outputs.regex", "grammar"),
    (by_outputs(grammar="start: other"), "structured_outputs.grammar", "grammar"),
    (by_outputs(choice=[]), "structured_outputs.choice", "empty"),
    (by_outputs(choice=["a", ""]), "structured_outputs.choice", "empty"),
    (by_outputs(structural_tag="{}"), "structured_outputs.structural_tag.structures", "list"),
    ({"response_format": {"type": "structural_tag"}}, "response_format.structures", "list"),
    (by_outputs(json_object=False), "structured_outputs.json_object", "True"),
    (by_outputs(), "structured_outputs", "exactly one"),
    (by_outputs(disable_any_whitespace=True), "structured_outputs", "exactly one"),
    (by_outputs(regex="a", choice=["a"]), "structured_outputs", "exactly one"),
    ({**by_schema(SCHEMA), **by_outputs(regex="a")}, "structured_outputs", "Give one"),
    (by_outputs(regexp="a"), "structured_outputs", "regexp"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        "response_format.json_schema",
        "schema",
    ),
    (by_schema(True), "response_format.json_schema.schema", "object"),
    ({"guided_json": SCHEMA}, "guided_json", 'structured_outputs: {"json"'),
    ({"guided_regex": "a"}, "guided_regex", 'structured_outputs: {"regex"'),
    ({"guided_decoding_backend": "outlines"}, "guided_decoding_backend", "leave it out"),
    (by_outputs(regex="a" * (MAX_CHARACTERS + 1)), "structured_outputs.regex", str(MAX_CHARACTERS)),
    (by_schema({"enum": ["a" * MAX_CHARACTERS]}), "response_format.json_schema.schema", str(MAX_CHARACTERS)),
]


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_every_way_to_ask_is_a_parameter_of_the_engine(path: str) -> None:
    async with served() as it:
        for fields, form in ASKED:
            status, reply = await it.post(path, **LEAST[path], **fields)
            assert status == 200, (fields, reply)
            assert it.engine.streams.pop().params.structured_outputs == form, fields


async def test_each_of_several_answers_has_the_form_in_a_stream_too() -> None:
    async with served() as it:
        events = await events_of(it, CHAT, **LEAST[CHAT], n=3, **by_schema(SCHEMA))
        assert events[-1] == "[DONE]"
        assert {stream.params.structured_outputs for stream in it.engine.streams} == {
            StructuredOutputsParams(json=SCHEMA)
        }
        assert len(it.engine.streams) == 3


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_kept_to_is_refused_by_its_place_in_the_body(path: str, stream: bool) -> None:
    async with served() as it:
        for fields, param, words in REFUSED:
            status, reply = await it.post(path, **LEAST[path], **fields, stream=stream)
            error = reply["error"]
            assert (status, error["type"]) == (400, "invalid_request_error"), (fields, reply)
            assert error["param"] == param, (fields, error)
            assert words in error["message"], (fields, error)
            assert len(error["message"]) <= 1003
        assert not it.engine.streams


@pytest.mark.parametrize("depth", [200, 400, 900, 5000])
async def test_a_deep_schema_is_refused_however_deep(depth: int) -> None:
    text = json.dumps(by_schema(nested(min(depth, 200))))
    inner = json.dumps(nested(200))
    for _ in range(depth - 200):
        inner = f'{{"type": "array", "items": {inner}}}'
    text = text.replace(json.dumps(nested(200)), inner)
    body = f'{{"prompt": "a", {text[1:-1]}}}'.encode()
    async with (
        served() as it,
        it.client.post(COMPLETIONS, data=body, headers={"Content-Type": "application/json"}) as response,
    ):
        assert response.status == 400, await response.text()
        assert "deep" in (await response.json())["error"]["message"]


class Counted:
    """Stands in for what looks at forms: notes them, and waits for a gate."""

    def __init__(self) -> None:
        self.forms: list[StructuredOutputsParams] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, form: StructuredOutputsParams) -> None:
        self.forms.append(form)
        assert self.gate.wait(10)
        if form.regex == "bad":
            raise GrammarError(name="regex", value="bad", limit="it is bad")


async def test_a_form_that_comes_again_costs_nothing_good_or_bad() -> None:
    counted = Counted()
    async with served(look=counted) as it:
        for _ in range(3):
            assert (await it.post(COMPLETIONS, **LEAST[COMPLETIONS], **by_outputs(regex="a+")))[0] == 200
            status, reply = await it.post(COMPLETIONS, **LEAST[COMPLETIONS], **by_outputs(regex="bad"))
            assert (status, reply["error"]["param"]) == (400, "structured_outputs.regex")
            assert reply["error"]["message"] == "structured_outputs.regex is 'bad': it is bad"
    assert [form.regex for form in counted.forms] == ["a+", "bad"]


async def test_requests_for_the_same_form_at_once_wait_for_one_look_at_it() -> None:
    counted = Counted()
    counted.gate.clear()
    async with served(look=counted) as it:
        asking = [
            asyncio.create_task(it.post(COMPLETIONS, **LEAST[COMPLETIONS], **by_outputs(regex=word)))
            for word in ("a+", "bad")
            for _ in range(4)
        ]
        while len(counted.forms) < 2:
            await asyncio.sleep(0.005)
        asking[0].cancel()  # whoever asked first leaves: the others are answered all the same
        counted.gate.set()
        told = await asyncio.gather(*asking, return_exceptions=True)
    assert [status for status, _ in told[1:]] == [200] * 3 + [400] * 4  # type: ignore[misc]
    assert len(counted.forms) == 2


async def test_the_event_loop_is_not_held_and_the_time_of_the_request_runs() -> None:
    counted = Counted()
    counted.gate.clear()
    async with served(look=counted) as it:
        try:
            slow = [
                asyncio.create_task(
                    it.post(COMPLETIONS, **LEAST[COMPLETIONS], **by_outputs(regex=f"a{i}"), timeout=1.0)
                )
                for i in range(6)
            ]
            while len(counted.forms) < 2:
                await asyncio.sleep(0.005)
            began = time.monotonic()
            assert (await it.post(COMPLETIONS, **LEAST[COMPLETIONS]))[0] == 200
            assert (await it.post(CHAT, **LEAST[CHAT]))[0] == 200  # templates and texts have places of their own
            assert time.monotonic() - began < 5
            assert {status for status, _ in await asyncio.gather(*slow)} == {504}
            assert len(counted.forms) == 2, "more than two at a time"
        finally:
            counted.gate.set()
    assert len(it.engine.streams) == 2


async def test_what_is_remembered_is_bounded_in_bytes_and_the_oldest_goes_first() -> None:
    counted = Counted()
    forms = Forms(counted, most_bytes=20_000)
    try:
        kept = StructuredOutputsParams(regex="b" * 100)
        for i in range(100):
            await forms.check(ANONYMOUS, StructuredOutputsParams(regex=f"{i:0100}"))
            await forms.check(ANONYMOUS, kept)
            assert forms.num_bytes <= 20_000
        assert counted.forms.count(kept) == 1
        assert forms.num_bytes > 10_000
        await forms.check(ANONYMOUS, StructuredOutputsParams(regex="c" * 10_000))  # larger than all of it
        assert forms.num_bytes == 0
    finally:
        await forms.close()


async def test_keys_wait_in_their_own_lines_and_forget_only_their_own() -> None:
    """One key's work goes on while another's, which asked for the same form before, waits behind its own."""
    counted, a, b = Counted(), Key(name="a"), Key(name="b")
    forms = Forms(counted, most_bytes=40_000, shared=lambda: True)
    same = StructuredOutputsParams(regex="same")
    try:
        counted.gate.clear()
        held = [asyncio.create_task(forms.check(a, StructuredOutputsParams(regex=f"a{i}"))) for i in range(4)]
        held.append(asyncio.create_task(forms.check(a, same)))
        while not counted.forms:
            await asyncio.sleep(0.005)
        mine = asyncio.create_task(forms.check(b, same))
        while same not in counted.forms:
            await asyncio.sleep(0.005)
        assert len(counted.forms) == 2, "a key of several had both places"
        counted.gate.set()
        await asyncio.gather(mine, *held)
        assert counted.forms.count(same) == 2, "what one key asked for is not told to another"
        for i in range(100):
            await forms.check(a, StructuredOutputsParams(regex=f"{i:0200}"))
        assert forms.num_bytes <= 40_000
        await forms.check(b, same)
        assert counted.forms.count(same) == 2, "one key made another one's form forgotten"
    finally:
        counted.gate.set()
        await forms.close()


async def test_what_the_server_says_of_all_json_is_for_requests_that_say_nothing_of_it() -> None:
    config: dict[str, Any] = {"disable_any_whitespace": True, "disable_additional_properties": True}
    cases: list[tuple[dict[str, Any], StructuredOutputsParams]] = [
        (by_schema(SCHEMA), StructuredOutputsParams(json=SCHEMA, **config)),
        (
            by_outputs(json=SCHEMA, disable_any_whitespace=False),
            StructuredOutputsParams(json=SCHEMA, disable_additional_properties=True),
        ),
        (
            by_outputs(json_object=True, whitespace_pattern=" "),
            StructuredOutputsParams(json_object=True, whitespace_pattern=" ", disable_additional_properties=True),
        ),
    ]
    async with served(structured_outputs_config=config) as it:
        for fields, form in cases:
            status, reply = await it.post(COMPLETIONS, **LEAST[COMPLETIONS], **fields)
            assert status == 200, reply
            assert it.engine.streams.pop().params.structured_outputs == form


@pytest.mark.parametrize("stream", [False, True])
async def test_a_form_that_fails_in_the_engine_ends_its_own_request_with_an_error_of_the_callers(stream: bool) -> None:
    async def pace(streamed: ScriptedStream) -> int:
        await asyncio.sleep(0)
        if streamed.params.structured_outputs is not None and streamed.sent == 2:
            streamed.engine.live.discard(streamed)
            streamed.unkept = f"{UNKEPT}: too much work"
        return 1

    async with served(ScriptedEngine(pace)) as it:
        beside = asyncio.create_task(it.post(COMPLETIONS, prompt="a", max_tokens=30))
        asked = {"prompt": "a", "max_tokens": 30, **by_outputs(regex="a+")}
        if stream:
            events = await events_of(it, **asked)
            error = events[-2]["error"]
            assert events[-1] == "[DONE]"
        else:
            status, reply = await it.post(COMPLETIONS, **asked)
            assert status == 400
            error = reply["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", "structured_outputs")
        assert "too much work" in error["message"]
        assert (await beside)[0] == 200
