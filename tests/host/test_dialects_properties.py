"""Parsers of tool calls and reasoning on any text in any pieces: the same answer, nothing lost, in linear time."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from dialect_cases import CASES, Case, parser, read
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpaged.dialects.call_formats import CALL_FORMATS
from jaxpaged.dialects.channels import CHANNEL_MARKS
from jaxpaged.dialects.deltas import CallDelta, ContentDelta, Delta, Message, ReasoningDelta, message_of
from jaxpaged.dialects.reasoning_format import REASONING_FORMATS

PLAIN = (
    *(
        "a",
        " ",
        "\n",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        '"',
        "'",
        "\\",
        ":",
        ",",
        ";",
        "=",
        "<",
        ">",
        "0",
        "-1.5e3",
        "null",
    ),
    *('{"name": "now", "arguments": {', '"name"', '"parameters": ', "now", "weather", "now()", "weather(city=", "é😀"),
    *("```", "```json", "functions.now:0", "to=functions.now", "True"),
    *("\\ud800", '"\\ud800"', '"arguments": "{\\"a\\": \\"\\ud800\\"}"'),
)
NAMES = sorted(CALL_FORMATS)


def marks_of(name: str, reasoning: str | None) -> list[str]:
    marks = list(CALL_FORMATS[name].marks)
    if reasoning is not None:
        marks += REASONING_FORMATS[reasoning].marks
    return marks + (list(CHANNEL_MARKS) if CALL_FORMATS[name].channels else [])


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, str | None, str]:
    """Formats, and a text made of their markup, of what is in calls, and of cases."""
    name = draw(st.sampled_from(NAMES))
    reasoning = draw(st.sampled_from([None, "deepseek_r1", "qwen3", "granite"]))
    reasoning = "openai_gptoss" if name == "openai" else reasoning
    cases = [case.text for case in CASES if case.calls == name] or [""]
    piece = st.one_of(
        st.sampled_from(PLAIN),
        st.sampled_from(marks_of(name, reasoning) or PLAIN),
        st.sampled_from(cases),
        st.text(max_size=3),
    )
    return name, reasoning, "".join(draw(st.lists(piece, max_size=25)))


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({min(place, len(text)) for place in places})
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


@given(answers(), st.lists(st.integers(0, 400), max_size=30))
@settings(max_examples=600, deadline=None)
def test_the_answer_does_not_depend_on_the_pieces(answer: tuple[str, str | None, str], places: list[int]) -> None:
    name, reasoning, text = answer
    whole = read(parser(name, reasoning), text)
    assert read(parser(name, reasoning), *cut(text, places)) == whole
    assert read(parser(name, reasoning), *text) == whole
    for part in (
        whole.content,
        whole.reasoning,
        *(piece for call in whole.calls for piece in (call.name, call.arguments)),
    ):
        part.encode()


@given(answers())
@settings(max_examples=150, deadline=None)
def test_deltas_come_in_order_and_never_take_back(answer: tuple[str, str | None, str]) -> None:
    name, reasoning, text = answer
    whole = read(parser(name, reasoning), text)
    made = parser(name, reasoning)
    told: list[Delta] = []
    for character in text:
        told += made.push(character)
        assert is_beginning(message_of(told), whole)
    told += made.finish()
    calls = [delta for delta in told if isinstance(delta, CallDelta)]
    assert [delta.index for delta in calls if delta.name] == list(range(len(whole.calls)))
    assert [delta.index for delta in calls] == sorted(delta.index for delta in calls)
    assert all(delta.text for delta in told if isinstance(delta, ContentDelta | ReasoningDelta))


def is_beginning(part: Message, whole: Message) -> bool:
    return (
        whole.content.startswith(part.content)
        and whole.reasoning.startswith(part.reasoning)
        and all(
            (a.name, a.id) == (b.name, b.id) and b.arguments.startswith(a.arguments)
            for a, b in zip(part.calls, whole.calls, strict=False)
        )
    )


@given(st.sampled_from(NAMES), st.text(alphabet="abc .,;\n", max_size=40), st.text(alphabet="abc .,;\n", max_size=40))
@settings(max_examples=200, deadline=None)
def test_text_around_calls_is_not_lost(name: str, before: str, after: str) -> None:
    if CALL_FORMATS[name].channels:
        return
    case = next((case for case in CASES if case.calls == name and case.called and not case.content), None)
    if case is None:
        return
    message = read(parser(name), before + case.text + after)
    closes = CALL_FORMATS[name].closes
    kept = "".join(message.content.split())
    asked = "".join((before + after).split())
    assert kept == asked or (";" in closes and kept.replace(";", "") == asked.replace(";", ""))
    assert len(message.calls) == len(case.called)


HOSTILE: dict[str, tuple[str, str]] = {
    "many openings": ("hermes", "<tool_call>"),
    "beginnings of openings": ("hermes", "<tool_cal"),
    "openings within a text": ("hermes", '<tool_call>{"arguments": "'),
    "openings within a name": ("hermes", '<tool_call>{"name": "'),
    "open lists": ("hermes", '<tool_call>{"name": "now", "arguments": ['),
    "objects in objects": ("hermes", '{"a":'),
    "calls without an end": ("hermes", '<tool_call>{"name": "now", "arguments": {}}'),
    "braces": ("llama3_json", "{"),
    "calls of nobody": ("llama3_json", '{"name": "x", "parameters": {"a": 1}};'),
    "white space": ("hermes", " \n"),
    "white space in a call": ("hermes", '<tool_call>{"name": "now",' + " " * 50),
    "brackets": ("pythonic", "["),
    "nested brackets": ("pythonic", "[now(a=["),
    "backslashes": ("pythonic", "[now(a='\\"),
    "digits": ("pythonic", "[now(a=1"),
    "keys": ("glm45", "<tool_call>now<arg_key>a</arg_key><arg_value>["),
    "values": ("glm45", "<tool_call>weather<arg_key>where</arg_key><arg_value>1</arg_valu"),
    "names": ("mistral", "[TOOL_CALLS]a"),
    "names that go on": ("qwen3_coder", "<function=a"),
    "frames": ("qwen3_coder", "<tool_call> "),
    "heads": ("openai", "<|start|><|channel|>a"),
    "messages": ("openai", "<|start|>assistant to=functions.now<|message|>{}"),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("size", [3, None])
def test_time_is_linear_in_the_text(kind: str, size: int | None) -> None:
    """Four times the text takes at most eight times the time: the square would be sixteen."""
    name, piece = HOSTILE[kind]

    def seconds(characters: int) -> float:
        text = piece * (characters // len(piece))
        pieces = [text] if size is None else [text[i : i + size] for i in range(0, len(text), size)]
        best = float("inf")
        for _ in range(2):
            made = parser(name)
            began = time.process_time()
            for part in pieces:
                made.push(part)
            made.finish()
            best = min(best, time.process_time() - began)
        return best

    count = 8000 if size is None else 4000
    short, long = seconds(count), seconds(4 * count)
    assert long < 8 * short + 0.02, (short, long)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.calls}-{case.reasoning}")
def test_each_case_is_the_same_in_any_two_pieces(case: Case) -> None:
    def made() -> Any:
        return parser(case.calls, case.reasoning, prompt=case.prompt)

    whole = read(made(), case.text)
    for place in range(len(case.text)):
        assert read(made(), case.text[:place], case.text[place:]) == whole


@pytest.mark.parametrize("half", ["\\ud800", "\\udfff", "\\ude00\\ud83d"])
def test_half_a_character_stays_escaped_in_arguments_that_are_text(half: str) -> None:
    inner = f'"{{\\"a\\":\\"{half}\\"}}"'
    (call,) = read(parser("hermes"), f'<tool_call>{{"name":"now","arguments":{inner}}}</tool_call>').calls
    assert call.arguments.encode()
    assert json.loads(call.arguments) == {"a": json.loads(f'"{half}"')}
