"""Grammars are read in a process first, which may take its time or break without any harm."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from jaxpaged.errors import GrammarError
from jaxpaged.structured.grammar import grammar_of
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged.structured.process import GrammarProcess
from jaxpaged.structured.processes import NUM_PROCESSES, GrammarProcesses
from jaxpaged.structured.wire import Setup

SPECIAL = {"<s>": 3, "<|call|>": 700}


def setup() -> Setup:
    """A token for every byte, these special ones, and more that are long."""
    tokens = [bytes([i]) for i in range(256)] + [b"%d" % 10**20] * 500
    for text, i in SPECIAL.items():
        tokens[i] = text.encode()
    return Setup(special=SPECIAL, tokens=tokens, no_text=sorted(SPECIAL.values()))


SLOW = {"type": "integer", "multipleOf": 999_983}  # as many states as remainders
QUICK = StructuredOutputsParams(choice=["a", "b"])


@pytest.fixture(scope="module")
def process() -> Iterator[GrammarProcess]:
    made = GrammarProcess(setup())
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
    with pytest.raises(GrammarError, match=r"breaks its process|takes more than [14] s"):
        process.grammar(StructuredOutputsParams(**form))
    assert process.grammar(StructuredOutputsParams(choice=["next"]))


def test_one_that_takes_too_long_is_ended() -> None:
    for limit_s, words in ((60.0, "takes more than 1 s of a processor"), (0.2, r"takes more than 0\.2 s")):
        process = GrammarProcess(setup(), limit_s=limit_s)
        with pytest.raises(GrammarError, match=words):
            process.grammar(StructuredOutputsParams(json=SLOW))
        process.close()


def test_one_that_takes_long_holds_up_no_other() -> None:
    processes = GrammarProcesses(setup())
    processes.grammar(QUICK)
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(processes.grammar, StructuredOutputsParams(json=SLOW))
        while processes._free.qsize() == NUM_PROCESSES:
            time.sleep(0.001)
        assert processes.grammar(QUICK)
        for _ in range(20):
            if not slow.done():
                assert processes.grammar(QUICK)
        assert isinstance(slow.exception(), GrammarError)
    assert processes._free.qsize() == NUM_PROCESSES


def test_forms_are_tried_with_the_tokens_that_there_are(process: GrammarProcess) -> None:
    assert process.grammar(StructuredOutputsParams(grammar="start: <[755]>"))
    with pytest.raises(GrammarError, match="no grammar can be made of it"):
        process.grammar(StructuredOutputsParams(grammar="start: <[100000]>"))


def test_time_of_forms_before_does_not_count(process: GrammarProcess) -> None:
    child = process._child._process
    form = {"properties": {f"k{i}": {"type": "number", "minimum": i + 0.5} for i in range(100)}}
    for i in range(20):  # together more than one may take
        assert process.grammar(StructuredOutputsParams(json={**form, "title": f"{i}"}))
    for _ in range(5):
        with pytest.raises(GrammarError):
            process.grammar(StructuredOutputsParams(regex="("))
    assert process._child._process is child or child is None


def test_another_child_takes_the_place_of_one_that_was_killed(process: GrammarProcess) -> None:
    process.grammar(StructuredOutputsParams(choice=["a"]))
    assert process._child._process is not None
    os.kill(process._child._process.pid, signal.SIGKILL)
    process._child._process.wait()
    assert process.grammar(StructuredOutputsParams(choice=["b"]))


def test_closed_processes_end_their_children_and_another_form_starts_one() -> None:
    several = GrammarProcesses(setup())
    for _ in range(2):
        assert several.grammar(QUICK)
        (child,) = [one._child._process for one in several._free.queue if one._child._process is not None]
        assert child.poll() is None
        several.close()
        assert child.poll() is not None
    assert all(one._child._process is None for one in several._free.queue)
