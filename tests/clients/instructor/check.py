# pyright: reportMissingImports=false
"""Instructor, with the form of its answers kept by the server, against what the engine itself says; run by `run.py`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import TestCase

import instructor
from openai import AsyncOpenAI, OpenAI

sys.path.append(str(Path(__file__).parents[1]))

from shapes import Order, check_order, partly

EXPECTED = json.loads(Path(os.environ["CHECK_EXPECTED"]).read_text())
ASKED: dict[str, Any] = {
    "model": os.environ["CHECK_MODEL"],
    "messages": EXPECTED["chat"]["messages"],
    "temperature": 0,
    "max_retries": 0,
}
SERVER: dict[str, Any] = {"max_retries": 0, "timeout": 60}
equal = TestCase().assertEqual


def main() -> None:
    """All checks, with the address and key of OPENAI_BASE_URL and OPENAI_API_KEY."""
    client = instructor.from_openai(OpenAI(**SERVER), mode=instructor.Mode.JSON_SCHEMA)  # pyright: ignore[reportAttributeAccessIssue]
    check_schema(client)
    check_partial(client)
    check_tools()
    asyncio.run(check_async())


def check_schema(client: Any) -> None:
    order, reply = client.chat.completions.create_with_completion(response_model=Order, **ASKED)
    assert isinstance(order, Order)
    check_order(reply.choices[0].message.content)
    equal(reply.choices[0].finish_reason, "stop")


def check_partial(client: Any) -> None:
    """A stream of what is known so far; the last one is whole."""
    told = list(client.chat.completions.create_partial(response_model=Order, **ASKED))
    assert len(told) > 1
    assert all(map(partly, told))
    check_order(told[-1].model_dump_json())


def check_tools() -> None:
    """Its default: a call of a tool that stands for the type."""
    client = instructor.from_openai(OpenAI(**SERVER), mode=instructor.Mode.TOOLS)  # pyright: ignore[reportAttributeAccessIssue]
    order, reply = client.chat.completions.create_with_completion(response_model=Order, **ASKED)
    assert isinstance(order, Order)
    (call,) = reply.choices[0].message.tool_calls or []
    check_order(call.function.arguments)
    told = list(client.chat.completions.create_partial(response_model=Order, **ASKED))
    equal(told[-1].model_dump(), order.model_dump())


async def check_async() -> None:
    client = instructor.from_openai(AsyncOpenAI(**SERVER), mode=instructor.Mode.JSON_SCHEMA)  # pyright: ignore[reportAttributeAccessIssue]
    orders = await asyncio.gather(*(client.chat.completions.create(response_model=Order, **ASKED) for _ in range(4)))
    for order in orders:
        equal(order.model_dump(), orders[0].model_dump())


if __name__ == "__main__":
    main()
