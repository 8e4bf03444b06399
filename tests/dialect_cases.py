"""Answers in the formats of models, and what they say. For tests of parsers."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

from jaxpaged.dialects.call_format import CallFormat
from jaxpaged.dialects.call_formats import CALL_FORMATS
from jaxpaged.dialects.deltas import Delta, Message, message_of
from jaxpaged.dialects.parser import DialectParser
from jaxpaged.dialects.reasoning_format import REASONING_FORMATS
from jaxpaged.dialects.tools import Tools

TOOLS: dict[str, dict[str, Any]] = {
    "weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "where": {"type": "object"},
            "unit": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
    },
    "now": {"type": "object", "properties": {}},
}
BERN = ("weather", {"city": "Bern", "days": 3})
NOW = ("now", {})


def parser(
    calls: str | CallFormat | None = None,
    reasoning: str | None = None,
    *,
    tools: dict[str, dict[str, Any]] | None = None,
    prompt: str = "",
) -> DialectParser:
    """Its calls have the ids "1", "2", ..."""
    numbers = itertools.count(1)
    return DialectParser(
        calls=CALL_FORMATS[calls] if isinstance(calls, str) else calls,
        reasoning=None if reasoning is None else REASONING_FORMATS[reasoning],
        tools=Tools(parameters=TOOLS if tools is None else tools),
        prompt=prompt,
        new_id=lambda: str(next(numbers)),
    )


def read(made: DialectParser, *pieces: str) -> Message:
    """What a parser makes of an answer."""
    deltas: list[Delta] = []
    for piece in pieces:
        deltas += made.push(piece)
    return message_of([*deltas, *made.finish()])


def calls_of(message: Message) -> list[tuple[str, Any]]:
    """Names and arguments, read."""
    return [(call.name, json.loads(call.arguments)) for call in message.calls]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An answer: the names of its formats, its text, what it says."""

    calls: str | None = None
    reasoning: str | None = None
    text: str
    content: str = ""
    thought: str = ""
    called: tuple[tuple[str, Any], ...] = ()
    prompt: str = ""


CASES = (
    Case(
        calls="hermes",
        text='I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Bern", "days": 3}}\n</tool_call>\n'
        '<tool_call>\n{"arguments": {}, "name": "now"}\n</tool_call>',
        content="I look.\n",
        called=(BERN, NOW),
    ),
    Case(
        calls="hermes",
        text='<tool_call>[{"name": "now"}, {"name": "now", "arguments": null}]</tool_call>\n\nThat is all.',
        content="\n\nThat is all.",
        called=(NOW, NOW),
    ),
    Case(
        calls="hermes",
        text='<tool_call>{"name": "weather", "arguments": {"city": "</tool_call> \\" \\\\", "where": {"a": [1, {}]}}}',
        called=(("weather", {"city": '</tool_call> " \\', "where": {"a": [1, {}]}}),),
    ),
    Case(
        calls="granite",
        text='<|tool_call|>[{"name": "weather", "arguments": {"city": "Bern", "days": 3}}, {"name": "now"}]',
        called=(BERN, NOW),
    ),
    Case(
        calls="granite-20b-fc",
        text='<function_call> {"name": "now", "arguments": {}}\n<function_call> {"name": "now", "arguments": {}}',
        called=(NOW, NOW),
    ),
    Case(
        calls="internlm",
        text='Wait.<|action_start|><|plugin|>\n{"name": "now", "parameters": {}}\n<|action_end|>',
        content="Wait.",
        called=(NOW,),
    ),
    Case(
        calls="jamba",
        text='<tool_calls>[\n {"name": "now", "arguments": {}}\n]</tool_calls>',
        called=(NOW,),
    ),
    Case(
        calls="phi4_mini_json",
        text='functools[{"name": "weather", "arguments": {"city": "Bern", "days": 3}}]',
        called=(BERN,),
    ),
    Case(
        calls="llama3_json",
        text='{"name": "weather", "parameters": {"city": "Bern", "days": 3}}; {"name": "now", "parameters": {}}',
        called=(BERN, NOW),
    ),
    Case(
        calls="llama3_json",
        text='<|python_tag|>{"type": "function", "name": "now", "parameters": {}}',
        called=(NOW,),
    ),
    Case(
        calls="llama3_json",
        text='An object: {"name": "Bern", "days": {"now": 1}}; or {"a": 1}.',
        content='An object: {"name": "Bern", "days": {"now": 1}}; or {"a": 1}.',
    ),
    Case(
        calls="mistral",
        text='Well [TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Bern", "days": 3}}, {"name": "now"}]',
        content="Well ",
        called=(BERN, NOW),
    ),
    Case(
        calls="mistral",
        text='[TOOL_CALLS]weather[ARGS]{"city": "Bern", "days": 3}[TOOL_CALLS]now{}[TOOL_CALLS]now[CALL_ID]a1[ARGS]{}',
        called=(BERN, NOW, NOW),
    ),
    Case(
        calls="pythonic",
        text="[weather(city='Bern', days=3), now()]",
        called=(BERN, NOW),
    ),
    Case(
        calls="pythonic",
        text="See [weather](of Bern) and [now]: [1, 2].",
        content="See [weather](of Bern) and [now]: [1, 2].",
    ),
    Case(
        calls="llama4_pythonic",
        text="<|python_start|>[now()]<|python_end|>",
        called=(NOW,),
    ),
    Case(
        calls="lfm2",
        text='<|tool_call_start|>[weather(city="Bern", days=3)]<|tool_call_end|>Looking.',
        content="Looking.",
        called=(BERN,),
    ),
    Case(
        calls="olmo3",
        text='<function_calls>weather(city="Bern", days=3)\nnow()</function_calls>',
        called=(BERN, NOW),
    ),
    Case(
        calls="deepseek_v3",
        text="Let me see.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
        '{"city": "Bern", "days": 3}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n'
        "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        content="Let me see.",
        called=(BERN, NOW),
    ),
    Case(
        calls="deepseek_v31",
        text='<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Bern", "days": 3}'
        "<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        called=(BERN, NOW),
    ),
    Case(
        calls="deepseek_v32",
        text='<｜DSML｜function_calls>\n<｜DSML｜invoke name="weather">\n<｜DSML｜parameter name="city" string="true">'
        'Bern</｜DSML｜parameter>\n<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n"
        '<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
        called=(BERN, NOW),
    ),
    Case(
        calls="kimi_k2",
        text='<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{"city": '
        '"Bern", "days": 3}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}'
        "<|tool_call_end|><|tool_calls_section_end|>",
        called=(BERN, NOW),
    ),
    Case(
        calls="glm45",
        text="Sure.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Bern</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
        content="Sure.\n",
        called=(BERN, NOW),
    ),
    Case(
        calls="glm47",
        text="<tool_call>weather<arg_key>city</arg_key><arg_value>Bern</arg_value><arg_key>days</arg_key><arg_value>3"
        "</arg_value></tool_call><tool_call>now</tool_call>",
        called=(BERN, NOW),
    ),
    Case(
        calls="qwen3_coder",
        text="<tool_call>\n<function=weather>\n<parameter=city>\nBern\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        called=(BERN, NOW),
    ),
    Case(
        calls="minimax_m2",
        text='<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Bern</parameter>\n'
        '<parameter name="days">3</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>',
        called=(BERN, NOW),
    ),
    Case(
        calls="seed_oss",
        text="<seed:tool_call>\n<function=weather>\n<parameter=city>Bern</parameter>\n<parameter=days>3</parameter>\n"
        "</function>\n</seed:tool_call>",
        called=(BERN,),
    ),
    Case(
        calls="openai",
        reasoning="openai_gptoss",
        text="<|channel|>analysis<|message|>It asks for two.<|end|><|start|>assistant<|channel|>commentary<|message|>"
        "I look.<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
        '{"city": "Bern", "days": 3}<|call|>',
        content="I look.",
        thought="It asks for two.",
        called=(BERN,),
    ),
    Case(
        calls="openai",
        reasoning="openai_gptoss",
        text="<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.now<|channel|>commentary json"
        "<|message|><|call|>",
        thought="Hm.",
        called=(NOW,),
    ),
    Case(
        reasoning="openai_gptoss",
        text="<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>42<|return|>",
        content="42",
        thought="Easy.",
    ),
    Case(reasoning="deepseek_r1", text="<think>\nWhy?\n</think>\n\nSo.", content="\n\nSo.", thought="\nWhy?\n"),
    Case(reasoning="deepseek_r1", text="Why?</think>So.", content="So.", thought="Why?"),
    Case(reasoning="deepseek_r1", text="So.", content="So.", prompt="<think>\n\n</think>\n\n"),
    Case(reasoning="deepseek_r1", text="And then I", thought="And then I"),
    Case(reasoning="qwen3", text="\n<think>a</think>b", content="b", thought="a"),
    Case(reasoning="qwen3", text="a</think>b", content="b", thought="a", prompt="assistant\n<think>\n"),
    Case(reasoning="qwen3", text="  a < b", content="  a < b"),
    Case(
        calls="qwen3_coder",
        reasoning="qwen3",
        text="I call. <tool_call>\n<function=now>\n</function>\n</tool_call>",
        thought="I call. ",
        called=(NOW,),
        prompt="<think>\n",
    ),
    Case(
        calls="hermes",
        reasoning="qwen3",
        text='<think>\n<tool_call> or not?\n</think>\n\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        thought="\n<tool_call> or not?\n",
        called=(NOW,),
    ),
    Case(
        reasoning="granite",
        text="Here is my thought process: 1 + 1. Here's my response: 2",
        content=" 2",
        thought=" 1 + 1. ",
    ),
    Case(reasoning="mistral", text="[THINK]a[/THINK]b", content="b", thought="a"),
    Case(reasoning="seed_oss", text="<seed:think>a</seed:think>b", content="b", thought="a"),
)
