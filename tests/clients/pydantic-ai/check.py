# pyright: reportMissingImports=false
"""Pydantic AI's agents with typed answers, against what the engine itself says; run by `run.py`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import TestCase

from pydantic_ai import Agent, NativeOutput, PromptedOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai import OpenAIProvider

sys.path.append(str(Path(__file__).parents[1]))

from shapes import Order, check_order

EXPECTED = json.loads(Path(os.environ["CHECK_EXPECTED"]).read_text())
PROMPT = EXPECTED["chat"]["messages"][-1]["content"]
GREEDY: Any = {"temperature": 0, "timeout": 60}
equal = TestCase().assertEqual


def main() -> None:
    """All checks, with the address and key of OPENAI_BASE_URL and OPENAI_API_KEY."""
    check_text()
    check_native()
    check_prompted()
    check_tool_output()
    asyncio.run(check_stream())


def model(**profile: Any) -> OpenAIChatModel:
    """The server's, with what pydantic_ai is to think of it beside what it thinks of every model."""
    provider = OpenAIProvider(base_url=os.environ["OPENAI_BASE_URL"], api_key=os.environ["OPENAI_API_KEY"])
    known = OpenAIModelProfile(**profile) if profile else None
    return OpenAIChatModel(os.environ["CHECK_MODEL"], provider=provider, profile=known)


def check_text() -> None:
    result = Agent(model(), model_settings={**GREEDY, "max_tokens": 16}).run_sync(PROMPT)
    assert isinstance(result.output, str)
    equal(result.usage().output_tokens, 16)


def check_native() -> None:
    """By `response_format`."""
    result = Agent(model(), output_type=NativeOutput(Order), retries=0, model_settings=GREEDY).run_sync(PROMPT)
    assert isinstance(result.output, Order)
    equal(result.usage().requests, 1)


def check_prompted() -> None:
    """A schema in the prompt is above a tiny model: vLLM's field beside it keeps the form."""
    form = {"structured_outputs": {"json": EXPECTED["structured"]["schema"]}}
    told = model(supports_json_object_output=False)
    agent = Agent(told, output_type=PromptedOutput(Order), retries=0, model_settings={**GREEDY, "extra_body": form})
    assert isinstance(agent.run_sync(PROMPT).output, Order)


def check_tool_output() -> None:
    """Its default: a tool that must be called with the result."""
    agent = Agent(model(), output_type=Order, retries=0, model_settings={**GREEDY, "parallel_tool_calls": False})
    result = agent.run_sync(PROMPT)
    assert isinstance(result.output, Order)
    equal(result.usage().requests, 1)


async def check_stream() -> None:
    agent = Agent(model(), output_type=NativeOutput(Order), retries=0, model_settings=GREEDY)
    async with agent.run_stream(PROMPT) as result:
        found = [order async for order in result.stream_output(debounce_by=None)]
        check_order((await result.get_output()).model_dump_json())
    assert found


if __name__ == "__main__":
    main()
