# pyright: reportMissingImports=false
"""LangChain's models for OpenAI's API, against what the engine itself says; run by `run.py`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import TestCase

import openai
from langchain_openai import ChatOpenAI, OpenAI

sys.path.append(str(Path(__file__).parents[1]))

from shapes import Order, check_order

EXPECTED = json.loads(Path(os.environ["CHECK_EXPECTED"]).read_text())
MODEL = os.environ["CHECK_MODEL"]
MAX_TOKENS = EXPECTED["max_tokens"]
OPTIONS: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": MAX_TOKENS,
    "temperature": 0,
    "max_retries": 0,
    "timeout": 60,
}
MESSAGES = [(message["role"], message["content"]) for message in EXPECTED["chat"]["messages"]]
ANSWER = EXPECTED["chat"]["answer"]
equal = TestCase().assertEqual


def main() -> None:
    """All checks, with the address and key of OPENAI_BASE_URL and OPENAI_API_KEY."""
    model = ChatOpenAI(**OPTIONS)
    check_invoke(model)
    check_stream(model)
    check_batch(model)
    check_logprobs(model)
    check_structured(ChatOpenAI(**{**OPTIONS, "max_tokens": 512}))
    check_tools(ChatOpenAI(**{**OPTIONS, "max_tokens": 512}))
    asyncio.run(check_async(model))
    check_completions()
    check_errors()


def check_invoke(model: ChatOpenAI) -> None:
    """Twice: the second time the prefix cache has the prompt, and the usage says so."""
    for cached in (False, True):
        reply = model.invoke(MESSAGES)
        equal(reply.content, ANSWER)
        equal(reply.response_metadata["finish_reason"], EXPECTED["chat"]["finish_reason"])
        equal(reply.response_metadata["model_name"], MODEL)
        check_usage(reply.usage_metadata, cached=cached)


def check_usage(usage: Any, *, cached: bool) -> None:
    assert usage is not None
    prompt_tokens = EXPECTED["chat"]["prompt_tokens"]
    equal((usage["input_tokens"], usage["output_tokens"]), (prompt_tokens, MAX_TOKENS))
    equal(usage["total_tokens"], prompt_tokens + MAX_TOKENS)
    read = usage["input_token_details"]["cache_read"]
    assert read <= prompt_tokens
    if cached:
        assert read > 0


def check_stream(model: ChatOpenAI) -> None:
    chunks = list(model.stream(MESSAGES, stream_usage=True))
    equal("".join(str(chunk.content) for chunk in chunks), ANSWER)
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    equal(whole.content, ANSWER)
    equal(whole.response_metadata["finish_reason"], EXPECTED["chat"]["finish_reason"])
    check_usage(whole.usage_metadata, cached=True)


def check_batch(model: ChatOpenAI) -> None:
    replies = model.batch([MESSAGES] * 4, config={"max_concurrency": 4})
    equal([reply.content for reply in replies], [ANSWER] * 4)


def check_logprobs(model: ChatOpenAI) -> None:
    reply = model.bind(logprobs=True, top_logprobs=2).invoke(MESSAGES)
    content = reply.response_metadata["logprobs"]["content"]
    equal("".join(entry["token"] for entry in content), ANSWER)


def check_structured(model: ChatOpenAI) -> None:
    """By `response_format`, for a type and for a schema; whole, and as it comes."""
    wanted = EXPECTED["structured"]["json"]
    found: Any = model.with_structured_output(Order, method="json_schema", include_raw=True).invoke(MESSAGES)
    assert isinstance(found["parsed"], Order), found["parsing_error"]
    check_order(found["raw"].content, wanted)
    schema = {"title": "order", **EXPECTED["structured"]["schema"]}
    plain: Any = model.with_structured_output(schema, method="json_schema")
    equal(plain.invoke(MESSAGES), json.loads(wanted))
    *_, last = plain.stream(MESSAGES)
    equal(last, json.loads(wanted))


def check_tools(model: ChatOpenAI) -> None:
    """A tool that must be called: by its name, or because there is no other; and one that stands for a type."""
    place = {"name": "place", "description": "Place an order.", "parameters": EXPECTED["structured"]["schema"]}
    tools = [{"type": "function", "function": place}]
    for choice in ("place", "any"):
        bound: Any = model.bind_tools(tools, tool_choice=choice, parallel_tool_calls=False)
        (call,) = bound.invoke(MESSAGES).tool_calls
        equal(call["name"], "place")
        check_order(json.dumps(call["args"]))
        chunks = list(bound.stream(MESSAGES))
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole = whole + chunk
        equal([(each["name"], each["args"]) for each in whole.tool_calls], [("place", call["args"])])
    found = model.with_structured_output(Order, method="function_calling").invoke(MESSAGES)
    assert isinstance(found, Order)


async def check_async(model: ChatOpenAI) -> None:
    equal((await model.ainvoke(MESSAGES)).content, ANSWER)
    equal("".join([str(chunk.content) async for chunk in model.astream(MESSAGES)]), ANSWER)


def check_completions() -> None:
    model = OpenAI(**OPTIONS)
    cases = EXPECTED["prompts"]
    result = model.generate([case["text"] for case in cases])
    equal([row[0].text for row in result.generations], [case["answer"] for case in cases])
    assert result.llm_output is not None
    equal(result.llm_output["token_usage"]["completion_tokens"], MAX_TOKENS * len(cases))
    equal("".join(model.stream(cases[1]["text"])), cases[1]["answer"])


def check_errors() -> None:
    cases: list[tuple[type[Exception], dict[str, Any]]] = [
        (openai.NotFoundError, {"model": "another"}),
        (openai.AuthenticationError, {"api_key": "sk-nobody-has-this-key"}),
        (openai.BadRequestError, {"extra_body": {"max_token": 1}}),
        (openai.BadRequestError, {"max_tokens": 4096}),
    ]
    for kind, fields in cases:
        for streaming in (False, True):
            model = ChatOpenAI(**{**OPTIONS, **fields})
            try:
                _ = list(model.stream("a")) if streaming else model.invoke("a")
            except kind:
                continue
            raise AssertionError(f"{fields} were taken")


if __name__ == "__main__":
    main()
