"""Parsers of tool calls and reasoning: each format, and what happens to what is none of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dialect_cases import BERN, CASES, NOW, TOOLS, Case, calls_of, parser, read

from jaxpaged.dialects.call_formats import CALL_FORMATS
from jaxpaged.dialects.deltas import CallDelta, ContentDelta
from jaxpaged.dialects.dialect import Dialect, dialect_of
from jaxpaged.dialects.reasoning_format import REASONING_FORMATS
from jaxpaged.errors import ConfigError


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.calls}-{case.reasoning}")
def test_an_answer_is_read_as_it_is_meant(case: Case) -> None:
    message = read(parser(case.calls, case.reasoning, prompt=case.prompt), case.text)
    assert message.content == case.content
    assert message.reasoning == case.thought
    assert tuple(calls_of(message)) == case.called


def test_every_format_of_calls_has_a_case() -> None:
    same = {"granite4": "hermes", "longcat": "hermes", "hunyuan_a13b": "jamba", "llama4_json": "llama3_json"}
    same |= {"qwen3_xml": "qwen3_coder", "mimo": "qwen3_coder"}
    assert {same.get(name, name) for name in CALL_FORMATS} == {case.calls for case in CASES if case.calls}


@pytest.mark.parametrize("name", [name for name, form in REASONING_FORMATS.items() if not form.channels])
def test_a_reasoning_format_reads_its_own_marks(name: str) -> None:
    form = REASONING_FORMATS[name]
    for begin in form.opens:
        for end in form.closes:
            message = read(parser(reasoning=name), f"{begin}why{end}so")
            assert (message.reasoning, message.content) == ("why", "so")
    assert read(parser(reasoning=name, prompt=f"... {form.closes[0]}\n"), "so").content == "so"
    message = read(parser(reasoning=name, prompt=f"... {form.opens[0]}\n"), f"why{form.closes[0]}so")
    assert (message.reasoning, message.content) == ("why", "so")


def test_a_call_is_told_as_it_comes() -> None:
    made = parser("hermes")
    assert made.push('So: <tool_call>{"name": "weather", "argu') == [ContentDelta(text="So: ")]
    assert made.push('ments": {"ci') == [CallDelta(index=0, id="1", name="weather", arguments='{"ci')]
    assert made.push('ty": "Be') == [CallDelta(index=0, arguments='ty": "Be')]
    assert made.push('rn"}') == [CallDelta(index=0, arguments='rn"}')]
    assert made.push("}</tool_call>\n") == []
    assert made.finish() == []


def test_text_is_told_at_once_but_for_what_may_be_markup() -> None:
    made = parser("hermes")
    assert made.push("a <tool") == [ContentDelta(text="a ")]
    assert made.push("bar> b") == [ContentDelta(text="<toolbar> b")]
    assert made.push(" <tool_call") == [ContentDelta(text=" ")]
    assert made.finish() == [ContentDelta(text="<tool_call")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "<tool_call>"),
        ("hermes", "the mark <tool_call> begins a call, </tool_call> ends it"),
        ("hermes", '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"nam'),
        ("hermes", '<tool_call>{name: "now"}</tool_call>'),
        ("hermes", "<tool_call>[]</tool_call>"),
        ("hermes", '<tool_call>{"name": "now\\ud8zz"}</tool_call>'),
        ("llama3_json", '{"name": "unknown", "parameters": {}}'),
        ("llama3_json", '{"name": "now"}'),
        ("llama3_json", "a; b; {c}"),
        ("mistral", "[TOOL_CALLS] what?"),
        ("mistral", "[TOOL_CALLS]now[ARGS]no"),
        ("deepseek_v3", "<｜tool▁calls▁begin｜> and nothing"),
        ("deepseek_v3", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n{}"),
        ("kimi_k2", "<|tool_call_begin|>functions.now:0 {}"),
        ("glm45", '<tool_call>{"name": "now"}</tool_call>'),
        ("qwen3_coder", "<tool_call> is said, <function=a b> too"),
        ("pythonic", "[unknown(a=1)]"),
        ("pythonic", "[weather(city=f(1))"[:9]),
        ("olmo3", "<function_calls>2 + 2</function_calls>"),
        ("openai", "<|channel|>final<|end|>"),
        ("openai", "<|start|>assist"),
    ],
)
def test_what_is_no_call_is_text(name: str, text: str) -> None:
    message = read(parser(name), text)
    assert message.content == text
    assert not message.calls


@pytest.mark.parametrize(
    ("name", "text", "arguments", "content"),
    [
        ("hermes", '<tool_call>{"name": "now", "arguments": {"a": \'b\'}}</tool_call>.', "{\"a\": 'b'}}", "."),
        ("mistral", '[TOOL_CALLS]now[ARGS]{"a": b c}', '{"a": b c}', ""),
        ("hermes", '<tool_call>{"name": "now", "arguments": {"a": 1}</tool_call>.', '{"a": 1}', "."),
        ("hermes", '<tool_call>{"name": "now", "arguments": {"a": "b', '{"a": "b', ""),
        ("hermes", '<tool_call>{"name": "now", "arguments": {"a": "1\n2"}}</tool_call>', '{"a": "1\\n2"}', ""),
        ("hermes", '<tool_call>{"name": "now", "arguments": "{\\"a\\": 1}"}</tool_call>', '{"a": 1}', ""),
        ("hermes", '<tool_call>{"name": "now", "arguments": "a"}</tool_call>', '"a"', ""),
        ("mistral", '[TOOL_CALLS]now[ARGS]{"a": 1, "b"', '{"a": 1, "b"', ""),
        ("glm45", "<tool_call>now\n<arg_key>a</arg_key>what", "", "<arg_key>a</arg_key>what"),
        ("qwen3_coder", "<function=now>Some text.", "{}", "Some text."),
        ("qwen3_coder", "<function=weather><parameter=city>Be", '{"city": "Be', ""),
        ("qwen3_coder", "<function=weather><parameter=days>1", '{"days": 1', ""),
        ("pythonic", "[weather(city='Bern', days=f(2))]", '{"city": "Bern", "days": ', "(2))]"),
    ],
)
def test_a_call_that_is_told_stays_one(name: str, text: str, arguments: str, content: str) -> None:
    message = read(parser(name), text)
    assert [call.arguments for call in message.calls] == [arguments]
    assert message.content.removeprefix("f") == content


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("'it''s'", None),
        ('"a\\n\\x41\\u00e9\\U0001F600\\\\ \\q"', "a\nAé😀\\ \\q"),
        ("'\"'", '"'),
        ("-1_000", -1000),
        ("0x1F", 31),
        ("1.50", 1.5),
        ("1e400", None),
        ("[1, (True, None,), {'a': [], \"b\": {}}]", [1, [True, None], {"a": [], "b": {}}]),
        ("{1: 2}", None),
        ("true", True),
        ("name", None),
        ("__import__('os')", None),
        ("1 + 1", None),
    ],
)
def test_literals_of_python_become_json(value: str, found: Any) -> None:
    message = read(parser("pythonic"), f"[weather(where={value})]")
    if found is None:
        assert message.content, "the rest is text"
        return
    assert calls_of(message) == [("weather", {"where": found})]
    assert not message.content


@pytest.mark.parametrize(
    ("argument", "value", "found"),
    [
        ("city", "3", "3"),
        ("city", "a\nb", "a\nb"),
        ("city", '"quoted"', '"quoted"'),
        ("days", " 3 ", 3),
        ("days", "many", "many"),
        ("where", '{"a": [true]}', {"a": [True]}),
        ("where", "[" * 100_000, "[" * 100_000),
        ("unit", "null", None),
        ("unit", "3", "3"),
        ("other", "True", True),
        ("other", "a, b", "a, b"),
        ("other", "NaN", "NaN"),
    ],
)
def test_values_between_marks_have_the_types_of_the_schema(argument: str, value: str, found: Any) -> None:
    texts = {
        "glm45": f"<tool_call>weather<arg_key>{argument}</arg_key><arg_value>{value}</arg_value></tool_call>",
        "qwen3_coder": f"<function=weather><parameter={argument}>\n{value}\n</parameter></function>",
    }
    for name, text in texts.items():
        assert calls_of(read(parser(name), text)) == [("weather", {argument: found})]


def test_ids_that_a_format_brings_are_kept() -> None:
    kimi = next(case.text for case in CASES if case.calls == "kimi_k2")
    assert [call.id for call in read(parser("kimi_k2"), kimi).calls] == ["functions.weather:0", "functions.now:1"]
    assert [call.id for call in read(parser("mistral"), "[TOOL_CALLS]now[CALL_ID]a1[ARGS]{}").calls] == ["a1"]
    assert [call.id for call in read(parser("hermes"), CASES[0].text).calls] == ["1", "2"]


def test_a_dialect_is_known_by_vllms_names() -> None:
    dialect = dialect_of(tool_call_parser="mistral", reasoning_parser="mistral")
    assert {"[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]"} <= dialect.marks
    (call,) = read(dialect.parser(TOOLS, prompt=""), "[TOOL_CALLS]now[ARGS]{}").calls
    assert len(call.id) == 9
    assert call.id.isalnum()
    dialect = dialect_of(tool_call_parser="hermes", reasoning_parser="")
    (call,) = read(dialect.parser(TOOLS, prompt=""), '<tool_call>{"name": "now"}</tool_call>').calls
    assert call.id.startswith("call_")
    assert read(dialect.parser({}, prompt=""), "<tool_call>").content == "<tool_call>", "there are no tools"
    assert dialect_of(tool_call_parser=None, reasoning_parser="none") == Dialect()
    for calls, reasoning in (("x", None), (None, "x")):
        with pytest.raises(ConfigError, match="it must be one of"):
            dialect_of(tool_call_parser=calls, reasoning_parser=reasoning)


def test_channels_without_tools_are_content() -> None:
    text = '<|channel|>commentary to=functions.now <|constrain|>json<|message|>{"a": 1}<|call|>'
    message = read(parser(reasoning="openai_gptoss"), text)
    assert (message.content, message.calls) == ('{"a": 1}', ())
    assert json.loads(read(parser("openai"), text).calls[0].arguments) == {"a": 1}
    assert (BERN[0], NOW[0]) == ("weather", "now")
