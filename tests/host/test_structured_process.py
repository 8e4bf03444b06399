"""Grammars are read in a process first, which may take its time or break without any harm."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from jaxpaged.errors import GrammarError
from jaxpaged.structured.grammar import grammar_of
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged.structured.process import GrammarProcess

SPECIAL = {"<s>": 3, "<|call|>": 700}


@pytest.fixture(scope="module")
def process() -> Iterator[GrammarProcess]:
    made = GrammarProcess(SPECIAL)
    yield made
    made.close()


FORMS: list[dict[str, Any]] = [
    {"json": {"type": "object", "properties": {"a": {"type": "integer"}}}, "disable_any_whitespace": True},
    {"json_object": True, "whitespace_pattern": " "},
    {"regex": "[a-z]+ é"},
    {"choice": ["a", "b"]},
    {"grammar": 'root ::= "a"'},
    {"grammar": "start: <|call|> /a/"},
    {"structural_tag": {"format": {"type": "tag", "begin": "<|call|>", "content": {"type": "any_text"}, "end": "."}}},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_it_makes_the_same_grammars(process: GrammarProcess, form: dict[str, Any]) -> None:
    params = StructuredOutputsParams(**form)
    assert process.grammar(params) == grammar_of(params, special=SPECIAL)


def test_its_errors_are_the_same(process: GrammarProcess) -> None:
    params = StructuredOutputsParams(json={"properties": {"a": {"items": {"not": {"type": "null"}}}}})
    with pytest.raises(GrammarError) as here:
        grammar_of(params)
    with pytest.raises(GrammarError) as there:
        process.grammar(params)
    assert str(there.value) == str(here.value)
    assert there.value.name == "$.properties.a.items.not"


def test_what_the_tokenizer_lacks_is_said_at_once(process: GrammarProcess) -> None:
    with pytest.raises(GrammarError, match="no grammar can be made of it"):
        process.grammar(StructuredOutputsParams(grammar="start: <|nobody|>"))


def chain(length: int) -> dict[str, Any]:
    """Definitions each of which holds the next one."""
    links = {f"d{i}": {"properties": {"next": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**links, f"d{length}": {"type": "null"}}}


DEEP = [
    {"json": chain(3000)},
    {"grammar": "start: r0\n" + "\n".join(f'r{i}: r{i + 1} | "{i}"' for i in range(8000)) + '\nr8000: "a"'},
]


@pytest.mark.parametrize("form", DEEP, ids=["schema", "grammar"])
def test_one_that_recurses_too_deep_breaks_the_process_alone(process: GrammarProcess, form: dict[str, Any]) -> None:
    with pytest.raises(GrammarError, match=r"breaks its process|takes more than 4 s"):
        process.grammar(StructuredOutputsParams(**form))
    assert process.grammar(StructuredOutputsParams(choice=["next"]))


def test_one_that_takes_too_long_is_ended() -> None:
    process = GrammarProcess({}, limit_s=1.0)
    slow = {"type": "integer", "multipleOf": 999_983}  # as many states as remainders
    with pytest.raises(GrammarError, match="takes more than 1 s"):
        process.grammar(StructuredOutputsParams(json=slow))
    process.close()


def test_another_child_takes_the_place_of_one_that_was_killed(process: GrammarProcess) -> None:
    process.grammar(StructuredOutputsParams(choice=["a"]))
    assert process._child is not None
    os.kill(process._child.pid, signal.SIGKILL)
    process._child.wait()
    assert process.grammar(StructuredOutputsParams(choice=["b"]))
