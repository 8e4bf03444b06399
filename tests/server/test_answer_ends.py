"""How an answer may end other than well: each is told in its own way, and logged once."""

from __future__ import annotations

import asyncio
import logging

import pytest
from jaxpaged_server.engine_process import error_fields
from scripted_engine import ScriptedEngine, ScriptedStream
from served import events_of, served

PATH = "/v1/completions"


async def test_an_engine_that_is_lost_ends_streams_with_an_event_and_others_with_503() -> None:
    async def pace(stream: ScriptedStream) -> int:
        if stream.sent == 2:
            stream.engine.break_down()
            return 0
        await asyncio.sleep(0)
        return 1

    async with served(ScriptedEngine(pace)) as it:
        events = await events_of(it, prompt=[1], max_tokens=9)
        assert [event if event == "[DONE]" else list(event) for event in events][-2:] == [["error"], "[DONE]"]
        assert events[-2]["error"]["code"] == "engine_stopped"
        status, reply = await it.post(PATH, prompt=[1])
        assert status == 503
        assert reply["error"]["code"] == "not_ready"


async def test_an_engines_end_is_not_logged_by_each_request_that_it_takes_along(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def pace(stream: ScriptedStream) -> int:
        if len(stream.engine.streams) == 8 and all(one.sent for one in stream.engine.streams):
            stream.engine.break_down()
            return 0
        await asyncio.sleep(0.001)
        return 0 if stream.sent else 1

    async with served(ScriptedEngine(pace)) as it:
        streams = [events_of(it, prompt=[1], max_tokens=9) for _ in range(4)]
        plain = [it.post(PATH, prompt=[1], max_tokens=9) for _ in range(4)]
        streamed, replies = await asyncio.gather(asyncio.gather(*streams), asyncio.gather(*plain))
    assert [events[-2]["error"]["code"] for events in streamed] == ["engine_stopped"] * 4
    assert [status for status, _ in replies] == [503] * 4
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_mistake_of_ours_in_the_engine_is_a_500_of_its_request_and_told_by_its_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fields = error_fields.fields_of(ZeroDivisionError("division by zero"), of_request=True)

    async def pace(stream: ScriptedStream) -> int:
        stream.failure = error_fields.error_of(fields) if 7 in stream.ids else None
        await asyncio.sleep(0)
        return 0 if stream.failure else 1

    async with served(ScriptedEngine(pace)) as it:
        async with it.client.post(PATH, json={"prompt": [7]}, headers={"X-Request-Id": "mine"}) as response:
            status, reply = response.status, await response.json()
        assert (status, reply["error"]["code"]) == (500, "internal_error")
        assert "zero" not in reply["error"]["message"]
        assert (await it.post(PATH, prompt=[8], max_tokens=1))[0] == 200
    (line,) = caplog.records
    assert "division by zero" in line.getMessage()
    assert (vars(line)["request_id"], line.exc_info) == ("mine", None), "the engine's process has told the stack"


async def test_an_answer_that_the_model_broke_is_an_error_and_no_answer() -> None:
    async def pace(stream: ScriptedStream) -> int:
        stream.broken = stream.sent == 2
        await asyncio.sleep(0)
        return 0 if stream.broken else 1

    async with served(ScriptedEngine(pace)) as it:
        for body in ({}, {"n": 2}):
            status, reply = await it.post(PATH, prompt=[1], max_tokens=9, **body)
            assert (status, reply["error"]["code"]) == (500, "generation_failed"), reply
            assert "position 3 is not finite" in reply["error"]["message"]
        events = await events_of(it, prompt=[1], max_tokens=9)
        assert [len(event["choices"]) for event in events[:2]] == [1, 1]
        assert events[2]["error"]["code"] == "generation_failed"
        assert events[3:] == ["[DONE]"]


async def test_an_abort_is_told_as_the_reason_of_the_end() -> None:
    async def pace(stream: ScriptedStream) -> int:
        if stream.sent == 2:
            stream.engine.abort_all()
            return 0
        await asyncio.sleep(0)
        return 1

    async with served(ScriptedEngine(pace)) as it:
        events = await events_of(it, prompt=[1], max_tokens=9)
    assert events[-2]["choices"][0]["finish_reason"] == "abort"
    assert events[-1] == "[DONE]"


async def test_a_request_has_its_time_and_no_more() -> None:
    async def pace(stream: ScriptedStream) -> int:
        await asyncio.sleep(0 if stream.sent < 2 else 30)
        return 1

    async with served(ScriptedEngine(pace)) as it:

        async def with_header(value: str) -> int:
            async with it.client.post(PATH, json={"prompt": [1]}, headers={"X-Request-Timeout": value}) as response:
                return response.status

        (status, reply), by_header = await asyncio.gather(it.post(PATH, prompt=[1], timeout=1), with_header("1.0"))
        assert (status, reply["error"]["code"]) == (504, "deadline_exceeded")
        assert by_header == 504
        for bad in ("0", "0.99", "nan", "soon", "-1", "86401"):
            assert await with_header(bad) == 400, bad
    async with served(ScriptedEngine(pace), request_timeout_s=0.1) as it:
        events = await events_of(it, prompt=[1])
        assert events[-2]["error"]["code"] == "deadline_exceeded"
