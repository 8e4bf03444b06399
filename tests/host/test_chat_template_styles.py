"""Chat templates of many styles: text and refusals are those of transformers.

Each file in `chat_templates/` is named after the construct of Jinja that it shows; its markup is invented.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from jaxpaged.chat_template import ChatTemplates
from jaxpaged.errors import PromptError
from jaxpaged.tokenize import Tokenizer

FOLDER = Path(__file__).parents[1] / "chat_templates"
STYLES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.jinja"))}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'The weather of a place; "now" & <later>',
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Où? 🙂"},
                "days": {"type": "array", "items": {"type": "integer"}},
                "unit": {"type": ["string", "null"], "enum": ["°C", "°F"]},
                "more": {"type": "object", "properties": {"wind": {"type": "boolean"}}, "required": ["wind"]},
            },
            "required": ["place"],
        },
        "return": {"type": "string"},
    },
}
NOTHING = {
    "type": "function",
    "function": {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}, "required": []}},
}
DOCUMENTS = [{"title": "One", "text": "Erstens <b>", "doc_id": "a1"}, {"title": "日本", "text": "第二\n"}]


texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=1, max_size=5)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def says(content: Any, **others: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **others}


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"id": "abcdef123", "type": "function", "function": {"name": name, "arguments": arguments}}


CALL = call("weather", {"place": "Zürich", "days": [1, 2], "unit": None})
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [user("Hello")],
    "system": [{"role": "system", "content": "Be <brief> & 'kind'. /quiet "}, user("  héllo 🙂\n")],
    "turns": [user("a"), says("b "), user("\nc\r\n\r\nd"), says(" e\n"), user("f")],
    "ended": [{"role": "system", "content": "S"}, user("a"), says("An answer:  ")],
    "jinja in it": [user("{{ 7 * 7 }} {% raw %} {# #} </s><|im_end|>"), says("%s %(a)s {0.a}"), user("\\n \"'")],
    "thoughts": [user("a"), says("<mull>\nwhy\n</mull>\n\nb"), user("c"), says("<mull>\nx</mull>d")],
    "reasoning apart": [user("a"), says("b", reasoning_content="\nbecause\n"), user("c"), says("d", reasoning="so")],
    "a call": [user("Weather?"), says("", tool_calls=[CALL])],
    "a result": [
        user("Weather?"),
        says(None, tool_calls=[CALL]),
        {"role": "tool", "content": "<12 °C>", "tool_call_id": "abcdef123"},
    ],
    "two calls": [
        *(user("Both?"), says("Wait.", tool_calls=[CALL, call("f", "{}")], thinking="two of them")),
        *({"role": "tool", "content": "12", "tool_call_id": "abcdef123"}, {"role": "tool", "content": "", "name": "f"}),
        *(says("Done."), user("Thanks")),
    ],
    "parts": [user([{"type": "text", "text": " one "}, {"type": "image"}, {"type": "text", "text": "two"}]), says("3")],
    "a system's parts": [{"role": "system", "content": [{"type": "text", "text": "S"}]}, user("a")],
    "nulls": [user("a"), says("b", tool_calls=None, name=None), user("c")],
    "wrong turns": [user("a"), user("b")],
    "a stranger": [{"role": "narrator", "content": "Once"}, user("a")],
    "no content": [{"role": "user"}],
    "a number": [user(3)],
}
VARIABLES: dict[str, dict[str, Any]] = {
    "alone": {},
    "with tools": {"tools": [WEATHER, NOTHING]},
    "with documents": {"documents": DOCUMENTS},
    "with all": {"tools": [WEATHER], "documents": DOCUMENTS, "enable_thinking": False, "controls": {"length": "short"}},
    "with others": {"thinking": True, "enable_thinking": True, "reasoning_effort": "high", "default_system": ""},
}


@cache
def oracle() -> PreTrainedTokenizerFast:
    backend = tokenizers.Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "[UNK]": 2}, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)


@cache
def templates(style: str) -> ChatTemplates:
    return ChatTemplates({"default": STYLES[style]}, SPECIAL)


def turns(texts: list[str]) -> list[dict[str, Any]]:
    return [user(text) if i % 2 == 0 else says(text) for i, text in enumerate(texts)]


def check_texts(style: str, texts: list[str]) -> None:
    theirs, ours = both(style, turns(texts), add_generation_prompt=True, **VARIABLES["with all"])
    assert ours == theirs


def both(style: str, messages: list[dict[str, Any]], **asked: Any) -> tuple[str | None, str | None]:
    """What transformers makes of a conversation, and what is made here; None where it is refused."""
    theirs: Any = None
    try:
        theirs = oracle().apply_chat_template(
            copy.deepcopy(messages), chat_template=STYLES[style], tokenize=False, **copy.deepcopy(asked)
        )
    except Exception:  # jinja2's errors, and whatever Python raises in a template
        assert theirs is None
    try:
        return theirs, templates(style).render(messages, **asked)
    except PromptError:
        return theirs, None


def test_there_are_enough_of_them() -> None:
    assert len(STYLES) >= 20


def check(style: str, *, everything: bool = False) -> set[str]:
    """Compare conversations with and without variables; returns those that are told at least once."""
    told: set[str] = set()
    for i, (name, messages) in enumerate(CONVERSATIONS.items()):
        for j, (given_name, variables) in enumerate(VARIABLES.items()):
            if not everything and j not in (0, 1 + i % (len(VARIABLES) - 1)):
                continue
            for prompting in (True, False) if everything else ((i + j) % 2 == 0,):
                theirs, ours = both(style, messages, add_generation_prompt=prompting, **variables)
                assert ours == theirs, (name, given_name, prompting)
                told |= {name} if theirs is not None else set()
    return told


def check_going_on(style: str, conversations: Iterable[list[dict[str, Any]]]) -> int:
    """Compare conversations whose last message goes on; returns how many are told."""
    told = 0
    for messages in conversations:
        asked = {"add_generation_prompt": False, "continue_final_message": True, **VARIABLES["with all"]}
        theirs, ours = both(style, messages, **asked)
        assert ours == theirs, messages
        told += theirs is not None
    return told


@pytest.mark.parametrize("style", STYLES)
def test_text_and_refusals_are_those_of_transformers(style: str) -> None:
    assert len(check(style)) >= 4


def test_refusals_are_among_them() -> None:
    for style, name in (
        ("turns_counted_in_a_namespace", "wrong turns"),
        ("turns_counted_in_a_namespace", "a stranger"),
        ("roles_in_a_table", "a stranger"),
        ("call_ids_checked", "two calls"),
        ("one_line_no_trim", "no content"),
        ("thinking_flag", "a number"),
        ("parts_of_content", "a number"),
    ):
        assert both(style, CONVERSATIONS[name], add_generation_prompt=True) == (None, None)


@pytest.mark.parametrize("style", STYLES)
def test_a_last_message_goes_on_where_transformers_lets_it(style: str) -> None:
    endings = ("Answer: ", ">", "</s>", " a", "", "assistant", "e")
    assert check_going_on(style, ([user("a"), says(text)] for text in endings)) >= 6


@pytest.mark.parametrize("style", STYLES)
@settings(deadline=None, max_examples=5)
@given(texts=texts)
def test_any_text_comes_through_as_in_transformers(style: str, texts: list[str]) -> None:
    check_texts(style, texts)


@pytest.mark.long
@pytest.mark.parametrize("style", STYLES)
@settings(deadline=None, max_examples=100)
@given(texts=texts)
def test_many_texts_come_through_as_in_transformers(style: str, texts: list[str]) -> None:
    check_texts(style, texts)
    check_going_on(style, [turns(texts)])


@pytest.mark.long
@pytest.mark.parametrize("style", STYLES)
def test_all_that_can_be_given_is_taken_as_transformers_does(style: str) -> None:
    check(style, everything=True)
    check_going_on(style, CONVERSATIONS.values())


def test_several_templates_are_chosen_from_as_transformers_does(tmp_path: Path) -> None:
    """As a list or an object in tokenizer_config.json, and as files: the same one counts."""
    backend = tokenizers.Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "[UNK]": 2}, unk_token="[UNK]"))
    names = {"default": "plain_turns", "tool_use": "recursive_macro_over_a_schema", "rag": "dictsort_and_title"}
    sources = {name: STYLES[style] for name, style in names.items()}
    forms: dict[str, Any] = {
        "list": [{"name": name, "template": source} for name, source in sources.items()],
        "object": sources,
        "files": "not this one",
    }
    for form, declared in forms.items():
        folder = tmp_path / form
        folder.mkdir()
        backend.save(str(folder / "tokenizer.json"))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": declared, **SPECIAL}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "config.json").write_text('{"model_type": "llama"}')
        if form == "files":
            (folder / "chat_template.jinja").write_text(sources["default"])
            (folder / "additional_chat_templates").mkdir()
            for name in ("tool_use", "rag"):
                (folder / "additional_chat_templates" / f"{name}.jinja").write_text(sources[name])
        theirs, ours = PreTrainedTokenizerFast.from_pretrained(folder), Tokenizer.load(folder)
        several: list[dict[str, Any]] = [
            *({}, {"tools": [WEATHER]}, {"documents": DOCUMENTS, "chat_template": "rag"}),
        ]
        for asked in several:
            expected = theirs.apply_chat_template(
                CONVERSATIONS["turns"], tokenize=False, add_generation_prompt=True, **asked
            )
            assert ours.apply_chat_template(CONVERSATIONS["turns"], **asked) == expected
            assert expected
