"""Grammars of calls: what a model may write by them is read as valid calls, whatever it chooses."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest
from dialect_cases import read
from grammar_walk import constraint_of, mask_after, small_tokenizer, text_of, walk

from jaxpaged.answer_end import AnswerEnd
from jaxpaged.dialects.dialect import Dialect, dialect_of
from jaxpaged.dialects.forced import Forced, after_thoughts, forced_calls, form_or_calls, strict_calls
from jaxpaged.structured.params import StructuredOutputsParams

SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": {
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["city"],
        "$defs": {"city": {"enum": ["Bern", "Zürich"]}},
    },
    "now": {"type": "object", "properties": {}},
}
OPEN = "assistant\n<think>\n"
CLOSED = "assistant\n<think>\n\n</think>\n\n"
NAMES = [None, "hermes", "llama3_json", "mistral", "pythonic", "openai", "deepseek_v3", "deepseek_v31", "glm45"]
NAMES += ["qwen3_coder", "kimi_k2"]


def written(tag: Any, count: int = 6) -> list[str]:
    """Answers that the grammar allows, drawn at random; those that came to an end."""
    tokenizer, rng = small_tokenizer(), random.Random(7)
    found = []
    for _ in range(count):
        constraint = constraint_of(tokenizer, structural_tag=tag, disable_additional_properties=True)
        output, whole = walk(constraint, tokenizer, rng, most=300)
        if whole:
            found.append(text_of(tokenizer, output))
    assert len(found) > count // 3, "hardly an answer came to an end"
    return found


def check(dialect: Dialect, forced: Forced, text: str, *, prompt: str, one: bool) -> str:
    """Every call is valid and nothing else is said; returns the reasoning."""
    message = read(dialect.parser(SCHEMAS, prompt=prompt, calls=forced.calls), text)
    assert not message.content.strip(), text
    assert len(message.calls) == 1 if one else message.calls
    for call in message.calls:
        jsonschema.validate(json.loads(call.arguments), {**SCHEMAS[call.name], "additionalProperties": False})
    return message.reasoning


@pytest.mark.parametrize("name", NAMES)
def test_a_required_call_is_one_of_the_functions(name: str | None) -> None:
    dialect = dialect_of(tool_call_parser=name, reasoning_parser=None)
    for one in (False, True):
        forced = forced_calls(dialect, SCHEMAS, prompt="", one=one, named=False)
        for text in written(forced.tag):
            check(dialect, forced, text, prompt="", one=one)


@pytest.mark.parametrize("name", NAMES)
def test_a_named_call_is_of_this_function(name: str | None) -> None:
    dialect = dialect_of(tool_call_parser=name, reasoning_parser=None)
    schemas = {"weather": SCHEMAS["weather"]}
    forced = forced_calls(dialect, schemas, prompt="", one=True, named=True)
    for text in written(forced.tag):
        check(dialect, forced, text, prompt="", one=True)


CALL = {
    "hermes": '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    "glm45": '[{"name": "now", "parameters": {}}]',
    "openai": "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}",
}


def allows(tag: Any, text: str) -> bool:
    """Whether an answer may be this, and end here."""
    tokenizer = small_tokenizer()
    constraint = constraint_of(tokenizer, structural_tag=tag, disable_additional_properties=True)
    ids = tokenizer.encode(text, add_special_tokens=False)
    width = tokenizer.vocab_size
    try:
        if not all(mask_after(constraint, ids[:i], width)[token] for i, token in enumerate(ids)):
            return False
        return any(mask_after(constraint, ids, width)[token] for token in tokenizer.eos_ids)
    except AnswerEnd:
        return True


@pytest.mark.parametrize(
    ("reasoning", "prompt", "may", "must"),
    [
        ("qwen3", "", True, False),
        ("qwen3", OPEN, True, True),
        ("qwen3", CLOSED, False, False),
        ("deepseek_r1", "", True, True),
    ],
)
@pytest.mark.parametrize("name", ["hermes", "glm45"])
def test_reasoning_comes_before_a_required_call(name: str, reasoning: str, prompt: str, may: bool, must: bool) -> None:
    dialect = dialect_of(tool_call_parser=name, reasoning_parser=reasoning)
    forced = forced_calls(dialect, SCHEMAS, prompt=prompt, one=True, named=False)
    whole = f"<think>Is it {CALL[name]}?</think>\n\n{CALL[name]}"
    assert allows(forced.tag, whole) == may
    assert allows(forced.tag, whole.removeprefix("<think>")) == must
    assert allows(forced.tag, CALL[name]) == (not must)
    assert not allows(forced.tag, "<think>Why?</think>So.")
    if may:
        assert check(dialect, forced, whole, prompt=prompt, one=True).startswith("Is it ")
    if not must:
        assert check(dialect, forced, CALL[name], prompt=prompt, one=True) == ""


def test_gpt_oss_may_think_before_a_required_call() -> None:
    dialect = dialect_of(tool_call_parser="openai", reasoning_parser="openai_gptoss")
    forced = forced_calls(dialect, SCHEMAS, prompt="", one=False, named=False)
    whole = f"<|channel|>analysis<|message|>Why?<|end|><|start|>assistant{CALL['openai']}"
    for text, thought in ((CALL["openai"], ""), (whole, "Why?")):
        assert allows(forced.tag, text)
        assert check(dialect, forced, text, prompt="", one=True) == thought
    assert not allows(forced.tag, "<|channel|>final<|message|>No.")


def test_strict_functions_are_held_to_their_schemas_where_the_model_chooses() -> None:
    dialect = dialect_of(tool_call_parser="hermes", reasoning_parser=None)
    tag = strict_calls(dialect, SCHEMAS, {"weather"}, prompt="")
    begin, end = '<tool_call>\n{"name": "', "}\n</tool_call>"
    assert allows(tag, "Nothing to call < here.")
    assert allows(tag, f'I look: {begin}weather", "arguments": {{"city": "Bern"}}{end} And {CALL["hermes"]}')
    assert allows(tag, f'{begin}now", "arguments": {{"a": 1}}{end}'), "not strict"
    assert not allows(tag, f'{begin}weather", "arguments": {{"town": "Bern"}}{end}')
    assert not allows(tag, f'{begin}other", "arguments": {{}}{end}')


def test_no_strict_call_where_free_text_cannot_be_told_from_calls() -> None:
    for name in (None, "llama3_json", "glm45", "mistral"):
        dialect = dialect_of(tool_call_parser=name, reasoning_parser=None)
        assert strict_calls(dialect, SCHEMAS, {"weather"}, prompt="") is None


FORMS: list[tuple[dict[str, Any], str, str]] = [
    ({"json": SCHEMAS["now"]}, "{}", "[]"),
    ({"json_object": True}, '{"a": 1}', "1"),
    ({"regex": "^[ab]{2}$"}, "ab", "abc"),
    ({"choice": ["yes", 'no "way"']}, 'no "way"', "no"),
]


@pytest.mark.parametrize(("form", "right", "wrong"), FORMS)
def test_a_form_comes_after_the_reasoning(form: dict[str, Any], right: str, wrong: str) -> None:
    asked = StructuredOutputsParams(**form)
    think = dialect_of(tool_call_parser=None, reasoning_parser="qwen3")
    held = after_thoughts(think, asked, prompt=OPEN)
    assert allows(held.structural_tag, f"Why?</think>\n\n{right}")
    assert not allows(held.structural_tag, right)
    assert not allows(held.structural_tag, f"Why?</think>{wrong}")
    assert after_thoughts(think, asked, prompt=CLOSED) is asked
    free = after_thoughts(think, asked, prompt="")
    assert allows(free.structural_tag, f"<think>Why?</think>{right}")
    assert allows(free.structural_tag, right)
    final = f"<|channel|>final<|message|>{right}"
    channels = dialect_of(tool_call_parser=None, reasoning_parser="openai_gptoss")
    held = after_thoughts(channels, asked, prompt="")
    assert allows(held.structural_tag, f"<|channel|>analysis<|message|>Why?<|end|><|start|>assistant{final}")
    assert allows(held.structural_tag, final)
    assert not allows(held.structural_tag, right)


def test_a_form_is_as_it_is_where_no_reasoning_is_read() -> None:
    asked = StructuredOutputsParams(json_object=True, disable_any_whitespace=True)
    assert after_thoughts(dialect_of(tool_call_parser="hermes", reasoning_parser=None), asked, prompt=OPEN) is asked
    think = dialect_of(tool_call_parser=None, reasoning_parser="qwen3")
    assert after_thoughts(think, asked, prompt=OPEN).disable_any_whitespace
    whole = StructuredOutputsParams(grammar='start: "a"')
    assert after_thoughts(think, whole, prompt=OPEN) is whole


@pytest.mark.parametrize(("form", "right", "wrong"), FORMS)
def test_a_form_leaves_the_model_the_choice_to_call(form: dict[str, Any], right: str, wrong: str) -> None:
    asked = StructuredOutputsParams(**form)

    def held(name: str, reasoning: str | None, prompt: str = "", *, one: bool = False) -> Any:
        dialect = dialect_of(tool_call_parser=name, reasoning_parser=reasoning)
        both = form_or_calls(dialect, asked, SCHEMAS, {"weather"}, prompt=prompt, one=one)
        assert both is not None
        return both.structural_tag

    call = CALL["hermes"]
    tag = held("hermes", None)
    assert allows(tag, right)
    assert allows(tag, call)
    assert allows(tag, f"{call}\n{call}")
    assert not allows(held("hermes", None, one=True), f"{call}\n{call}")
    for text in (wrong, f"{right}{call}", call.replace("now", "other"), call.replace("now", "weather")):
        assert not allows(tag, text)
    tag = held("hermes", "qwen3", OPEN)
    for text in (right, call):
        assert allows(tag, f"Why?</think>\n\n{text}")
        assert not allows(tag, text)
    tag = held("openai", "openai_gptoss")
    thought = "<|channel|>analysis<|message|>Why?<|end|><|start|>assistant"
    for text in (f"<|channel|>final<|message|>{right}", CALL["openai"]):
        assert allows(tag, text)
        assert allows(tag, thought + text)


def test_no_form_leaves_the_choice_where_calls_have_no_grammar() -> None:
    asked = StructuredOutputsParams(json_object=True, disable_any_whitespace=True)
    whole = StructuredOutputsParams(grammar='start: "a"')
    for name, free in (("hermes", True), ("llama3_json", True), ("glm45", False), (None, False)):
        dialect = dialect_of(tool_call_parser=name, reasoning_parser=None)
        both = form_or_calls(dialect, asked, SCHEMAS, (), prompt="", one=False)
        assert (both is not None) == free
        assert both is None or both.disable_any_whitespace
        assert form_or_calls(dialect, whole, SCHEMAS, (), prompt="", one=False) is whole
