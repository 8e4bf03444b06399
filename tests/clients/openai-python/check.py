# pyright: reportMissingImports=false
"""The calls of the openai package for Python, against what the engine itself says; run by `run.py`."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any
from unittest import TestCase

import openai
from openai import AsyncOpenAI, OpenAI
from structured import check_structured
from tools import check_tools

EXPECTED = json.loads(Path(os.environ["CHECK_EXPECTED"]).read_text())
MODEL = os.environ["CHECK_MODEL"]
MAX_TOKENS = EXPECTED["max_tokens"]
GREEDY: dict[str, Any] = {"model": MODEL, "max_tokens": MAX_TOKENS, "temperature": 0}
MESSAGES = EXPECTED["chat"]["messages"]
equal = TestCase().assertEqual


def main() -> None:
    """All checks, with the address and key of OPENAI_BASE_URL and OPENAI_API_KEY."""
    client = OpenAI(max_retries=0, timeout=60)
    check_models(client)
    check_completions(client)
    check_echo(client)
    check_completion_stream(client)
    check_chat(client)
    check_chat_logprobs(client)
    check_chat_stream(client)
    check_structured(client, EXPECTED, MODEL)
    check_tools(client, EXPECTED, MODEL)
    asyncio.run(check_many_at_once())
    check_errors(client)
    check_rate_limit(os.environ["CHECK_LIMITED_KEY"])


def check_models(client: OpenAI) -> None:
    (model,) = client.models.list()
    equal(model.id, MODEL)
    equal(client.models.retrieve(MODEL), model)
    equal((model.model_extra or {})["max_model_len"], 2048)


def check_completions(client: OpenAI) -> None:
    first = EXPECTED["prompts"][0]
    reply = client.completions.create(prompt=first["text"], **GREEDY)
    (choice,) = reply.choices
    equal(choice.text, first["answer"])
    equal(choice.finish_reason, "length")
    equal(reply.model, MODEL)
    assert reply.usage is not None
    equal((reply.usage.prompt_tokens, reply.usage.completion_tokens), (len(first["token_ids"]), MAX_TOKENS))
    equal(reply.usage.total_tokens, len(first["token_ids"]) + MAX_TOKENS)
    assert reply._request_id, "X-Request-Id is not there"
    for prompt in ([each["text"] for each in EXPECTED["prompts"]], [each["token_ids"] for each in EXPECTED["prompts"]]):
        reply = client.completions.create(prompt=prompt, n=2, **GREEDY)
        wanted = [each["answer"] for each in EXPECTED["prompts"] for _ in range(2)]
        equal([choice.text for choice in sorted(reply.choices, key=lambda choice: choice.index)], wanted)
        equal([choice.index for choice in reply.choices], list(range(len(wanted))))
    reply = client.completions.create(prompt=first["token_ids"], stop=first["answer"][4:7], **GREEDY)
    equal((reply.choices[0].text, reply.choices[0].finish_reason), (first["answer"][:4], "stop"))


def check_echo(client: OpenAI) -> None:
    for case in EXPECTED["prompts"]:
        reply = client.completions.create(prompt=case["text"], echo=True, logprobs=2, **GREEDY)
        (choice,) = reply.choices
        equal(choice.text, case["text"] + case["answer"])
        found = choice.logprobs
        assert found is not None
        assert found.tokens is not None
        assert found.text_offset is not None
        assert found.top_logprobs is not None
        equal("".join(found.tokens), choice.text)
        for token, at in zip(found.tokens, found.text_offset, strict=True):
            equal(choice.text[at : at + len(token)], token)
        equal(found.token_logprobs, case["token_logprobs"] + case["answer_logprobs"])
        answer = zip(found.tokens[-MAX_TOKENS:], case["answer_logprobs"], found.top_logprobs[-MAX_TOKENS:], strict=True)
        for token, logprob, top in answer:
            assert max(top.values()) == top[token] == logprob, "a greedy answer is of the likeliest tokens"


def check_completion_stream(client: OpenAI) -> None:
    case = EXPECTED["prompts"][1]
    options: Any = {"include_usage": True}
    events = list(client.completions.create(prompt=case["text"], stream=True, stream_options=options, **GREEDY))
    *told, last = events
    equal("".join(choice.text for event in told for choice in event.choices), case["answer"])
    equal([choice.finish_reason for event in told for choice in event.choices if choice.finish_reason], ["length"])
    assert not last.choices
    assert last.usage is not None
    equal(last.usage.completion_tokens, MAX_TOKENS)


def check_chat(client: OpenAI) -> None:
    wanted = EXPECTED["chat"]
    reply = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    (choice,) = reply.choices
    equal(choice.message.role, "assistant")
    equal(choice.message.content, wanted["answer"])
    equal(choice.finish_reason, wanted["finish_reason"])
    assert reply.usage is not None
    equal(reply.usage.prompt_tokens, wanted["prompt_tokens"])
    assert reply.system_fingerprint
    again = client.chat.completions.create(messages=MESSAGES, n=2, **GREEDY)
    equal([choice.message.content for choice in again.choices], [wanted["answer"]] * 2)
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert (again.usage.prompt_tokens_details.cached_tokens or 0) > 0, "the same prompt was there before"


def check_chat_logprobs(client: OpenAI) -> None:
    reply = client.chat.completions.create(messages=MESSAGES, logprobs=True, top_logprobs=3, **GREEDY)
    (choice,) = reply.choices
    assert choice.logprobs is not None
    content = choice.logprobs.content or []
    equal("".join(entry.token for entry in content), EXPECTED["chat"]["answer"])
    for entry in content:
        equal(bytes(entry.bytes or []).decode(), entry.token)
        equal(len(entry.top_logprobs), 3)
        equal(entry.top_logprobs[0].token, entry.token)
        assert entry.top_logprobs[0].logprob == entry.logprob < 0


def check_chat_stream(client: OpenAI) -> None:
    wanted = EXPECTED["chat"]
    options: Any = {"include_usage": True}
    stream = client.chat.completions.create(messages=MESSAGES, stream=True, stream_options=options, **GREEDY)
    *told, last = list(stream)
    equal(told[0].choices[0].delta.role, "assistant")
    equal("".join(choice.delta.content or "" for event in told for choice in event.choices), wanted["answer"])
    ends = [choice.finish_reason for event in told for choice in event.choices if choice.finish_reason]
    equal(ends, [wanted["finish_reason"]])
    assert all(event.usage is None for event in told)
    assert not last.choices
    assert last.usage is not None
    equal((last.usage.prompt_tokens, last.usage.completion_tokens), (wanted["prompt_tokens"], MAX_TOKENS))
    equal(len({event.id for event in (*told, last)}), 1)
    without = list(client.chat.completions.create(messages=MESSAGES, stream=True, **GREEDY))
    assert all(event.usage is None and event.choices for event in without)


async def check_many_at_once() -> None:
    async with AsyncOpenAI(max_retries=0, timeout=60) as client:

        async def one(case: dict[str, Any]) -> str:
            stream = await client.completions.create(prompt=case["text"], stream=True, **GREEDY)
            return "".join([choice.text async for event in stream for choice in event.choices])

        cases = EXPECTED["prompts"] * 4
        answers = await asyncio.gather(*map(one, cases))
        equal(answers, [case["answer"] for case in cases])


def check_errors(client: OpenAI) -> None:
    cases: list[tuple[type[openai.APIStatusError], str | None, str | None, dict[str, Any]]] = [
        # the exception, its code, its param, what is asked for
        (openai.NotFoundError, "model_not_found", None, {"model": "another"}),
        (openai.BadRequestError, None, "temperature", {"temperature": -1}),
        (openai.BadRequestError, None, "max_token", {"extra_body": {"max_token": 1}}),
        (openai.BadRequestError, "context_length_exceeded", None, {"prompt": [5] * 2048}),
        (openai.BadRequestError, "context_length_exceeded", None, {"max_tokens": 2048}),
        (openai.BadRequestError, None, "suffix", {"suffix": "x"}),
    ]
    for kind, code, param, fields in cases:
        error = error_of(client, **fields)
        assert type(error) is kind, (fields, error)
        assert (error.code, error.param) == (code, param), (fields, error.body)
        assert error.request_id
    error = error_of(client.with_options(api_key="sk-nobody-has-this-key"))
    assert type(error) is openai.AuthenticationError
    equal(error.code, "invalid_api_key")
    assert "nobody" not in str(error), "a key is never shown"
    code = None
    try:
        client.models.retrieve("another")
    except openai.NotFoundError as absent:
        code = absent.code
    equal(code, "model_not_found")
    # an error ends a request before its stream: it is raised, and is no event
    error = error_of(client, stream=True, temperature=-1)
    assert type(error) is openai.BadRequestError


def error_of(client: OpenAI, **fields: Any) -> openai.APIStatusError:
    try:
        client.completions.create(**{"prompt": "a", **GREEDY, **fields})
    except openai.APIStatusError as error:
        return error
    raise AssertionError(f"{fields} were taken")


def check_rate_limit(key: str) -> None:
    """The key's rate is used up; then the client waits as long as it is told to, and is served."""
    impatient = OpenAI(api_key=key, max_retries=0, timeout=60)
    refused = None
    for _ in range(60):
        try:
            impatient.completions.create(model=MODEL, prompt="a", max_tokens=1)
        except openai.RateLimitError as error:
            refused = error
            break
    assert refused is not None, "60 requests passed a limit of 12 a minute"
    equal(refused.code, "rate_limit_exceeded")
    seconds = int(refused.response.headers["retry-after"])
    assert 1 <= seconds <= 5
    began = time.monotonic()
    patient = OpenAI(api_key=key, max_retries=1, timeout=60)
    reply = patient.completions.create(model=MODEL, prompt="a", max_tokens=1)
    equal(reply.choices[0].finish_reason, "length")
    # without Retry-After it tries again after less than a second, and is refused
    assert time.monotonic() - began > seconds - 1.5


if __name__ == "__main__":
    main()
