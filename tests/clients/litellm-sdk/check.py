# pyright: reportMissingImports=false
"""LiteLLM with both of its prefixes for such servers, against what the engine itself says; run by `run.py`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import TestCase

import litellm

sys.path.append(str(Path(__file__).parents[1]))

from shapes import Order, check_order

EXPECTED = json.loads(Path(os.environ["CHECK_EXPECTED"]).read_text())
MODEL = os.environ["CHECK_MODEL"]
MAX_TOKENS = EXPECTED["max_tokens"]
MESSAGES = EXPECTED["chat"]["messages"]
ANSWER = EXPECTED["chat"]["answer"]
equal = TestCase().assertEqual


def main() -> None:
    """All checks, once for each prefix."""
    litellm.suppress_debug_info = True
    for prefix in ("hosted_vllm", "openai"):
        options: dict[str, Any] = {
            "model": f"{prefix}/{MODEL}",
            "api_base": os.environ["OPENAI_BASE_URL"],
            "api_key": os.environ["OPENAI_API_KEY"],
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
            "max_retries": 0,
            "timeout": 60,
        }
        check_chat(options)
        check_stream(options)
        check_structured({**options, "max_tokens": 512})
        asyncio.run(check_async(options))
        check_completions(options)
        check_errors(options, f"{prefix}/another")
    check_rate_limit(options, os.environ["CHECK_LIMITED_KEY"])


def check_chat(options: dict[str, Any]) -> None:
    reply: Any = litellm.completion(messages=MESSAGES, **options)
    (choice,) = reply.choices
    equal(choice.message.role, "assistant")
    equal(choice.message.content, ANSWER)
    equal(choice.finish_reason, EXPECTED["chat"]["finish_reason"])
    equal(reply.usage.prompt_tokens, EXPECTED["chat"]["prompt_tokens"])
    equal(reply.usage.completion_tokens, MAX_TOKENS)
    again: Any = litellm.completion(messages=MESSAGES, logprobs=True, top_logprobs=2, **options)
    assert again.usage.prompt_tokens_details.cached_tokens > 0, "the same prompt was there before"
    tokens = [entry["token"] for entry in again.choices[0].logprobs["content"]]
    equal("".join(tokens), ANSWER)


def check_stream(options: dict[str, Any]) -> None:
    stream: Any = litellm.completion(messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **options)
    chunks = list(stream)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    equal("".join(choice.delta.content or "" for choice in choices), ANSWER)
    equal([choice.finish_reason for choice in choices if choice.finish_reason], [EXPECTED["chat"]["finish_reason"]])
    usage = chunks[-1].usage
    equal((usage.prompt_tokens, usage.completion_tokens), (EXPECTED["chat"]["prompt_tokens"], MAX_TOKENS))
    whole: Any = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    equal(whole.choices[0].message.content, ANSWER)


def check_structured(options: dict[str, Any]) -> None:
    """By a type, of which it makes the schema."""
    reply: Any = litellm.completion(messages=MESSAGES, response_format=Order, **options)
    check_order(reply.choices[0].message.content, EXPECTED["structured"]["json"])


async def check_async(options: dict[str, Any]) -> None:
    replies: Any = await asyncio.gather(*(litellm.acompletion(messages=MESSAGES, **options) for _ in range(4)))
    equal([reply.choices[0].message.content for reply in replies], [ANSWER] * 4)
    stream: Any = await litellm.acompletion(messages=MESSAGES, stream=True, **options)
    equal("".join([chunk.choices[0].delta.content or "" async for chunk in stream]), ANSWER)


def check_completions(options: dict[str, Any]) -> None:
    cases = EXPECTED["prompts"]
    reply: Any = litellm.text_completion(prompt=cases[0]["text"], **options)
    assert reply.id.startswith("cmpl-"), "it is of another route"
    equal(reply.choices[0]["text"], cases[0]["answer"])
    # one request for all prompts is made with this prefix only
    fields = {**options, "model": f"text-completion-openai/{MODEL}"}
    reply = litellm.text_completion(prompt=[case["text"] for case in cases], **fields)
    equal([choice["text"] for choice in reply.choices], [case["answer"] for case in cases])


def check_errors(options: dict[str, Any], absent: str) -> None:
    cases: list[tuple[type[Exception], dict[str, Any]]] = [
        (litellm.NotFoundError, {"model": absent}),
        (litellm.AuthenticationError, {"api_key": "sk-nobody-has-this-key"}),
        (litellm.BadRequestError, {"temperature": -1}),
        (litellm.BadRequestError, {"extra_body": {"max_token": 1}}),
        # only this kind makes it fall back to a model with a longer context
        (litellm.ContextWindowExceededError, {"messages": [{"role": "user", "content": "import os\n" * 2000}]}),
        (litellm.ContextWindowExceededError, {"max_tokens": 4096}),
    ]
    for kind, fields in cases:
        for stream in (False, True):
            error = error_of({**options, "stream": stream, **fields})
            assert type(error) is kind, (options["model"], list(fields), stream, type(error), error)


def error_of(fields: dict[str, Any]) -> Exception:
    try:
        reply: Any = litellm.completion(**{"messages": MESSAGES, **fields})
        if fields["stream"]:
            list(reply)
    except Exception as error:
        return error
    raise AssertionError(f"{list(fields)} were taken")


def check_rate_limit(options: dict[str, Any], key: str) -> None:
    for _ in range(60):
        try:
            litellm.completion(
                messages=[{"role": "user", "content": "a"}], **{**options, "api_key": key, "max_tokens": 1}
            )
        except litellm.RateLimitError:
            return
    raise AssertionError("60 requests passed a limit of 12 a minute")


if __name__ == "__main__":
    main()
