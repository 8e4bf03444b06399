"""Templates of a folder, as programs that wait run them: the same text, and an end to those that do not end."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_templates import FORMATS, HOSTILE

from jaxpaged import asked_child, frames
from jaxpaged.chat_template import ChatTemplates
from jaxpaged.children import KEY_VARIABLES
from jaxpaged.errors import ChildError, JaxPagedError, PromptError, TokenizerError
from jaxpaged.templating.process import CappedTemplates

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "so 🙂 >"}]
GOOD = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{{ tools | tojson }}{{ eos_token }}{{ mode }}"
)


@pytest.fixture(scope="module")
def capped() -> Iterator[CappedTemplates]:
    sources = {"good": GOOD, "wrong": "{% if %}", "refuses": "{{ raise_exception('no') }}", **HOSTILE}
    made = CappedTemplates(sources, {"eos_token": "</s>"}, limit_s=0.3, most_characters=10_000)
    yield made
    made.close()


def nested(depth: int) -> Any:
    inside: Any = "x"
    for _ in range(depth):
        inside = [inside]
    return inside


def good(capped: CappedTemplates, **asked: Any) -> str:
    return capped.render(MESSAGES, chat_template="good", **{"add_generation_prompt": False, **asked})


def test_the_text_is_that_of_this_process(capped: CappedTemplates) -> None:
    here = ChatTemplates({"default": GOOD}, {"eos_token": "</s>"})
    given: list[dict[str, Any]] = [{}, {"tools": [{"a": "ü"}], "mode": 3}, {"continue_final_message": True}]
    for asked in given:
        assert good(capped, **asked) == here.render(MESSAGES, add_generation_prompt=False, **asked)
    assert good(capped, continue_final_message=True) == "<user>hello</><assistant>so 🙂 >"


def test_what_is_refused_is_told(capped: CappedTemplates) -> None:
    cases: list[tuple[type[JaxPagedError], str, dict[str, Any]]] = [
        (PromptError, "refuses: no", {"chat_template": "refuses"}),
        (TokenizerError, "does not parse", {"chat_template": "wrong"}),
        (PromptError, "Name one of them", {"chat_template": "absent"}),
        (PromptError, "JSON values only", {"mode": object()}),
        (PromptError, "more than 64 bits", {"mode": 2**64}),
        (PromptError, "UTF-8", {"mode": "\ud800"}),
        (PromptError, r"messages\[0\]\['content'\]\[0\].*nested", {"messages": [{"content": nested(2_000)}]}),
        (PromptError, r"mode\[0\]\[0\].*at most 128", {"mode": nested(129)}),
        (PromptError, r"a key of messages\[1\]\['a'\] is 'tuple'", {"messages": [{}, {"a": {(1, 2): 3}}]}),
        (PromptError, r"messages\[1\] is 'list'.*each must be", {"messages": [{}, nested(2_000)]}),
        (PromptError, "messages is 'NoneType'.*must be a list", {"messages": None}),
        (PromptError, "there is none", {"messages": []}),
        (PromptError, "more than 10000 characters", {"messages": [{"role": "user", "content": "a" * 10_001}]}),
    ]
    for kind, told, asked in cases:
        with pytest.raises(kind, match=told):
            capped.render(**{"messages": MESSAGES, "chat_template": "good", "add_generation_prompt": True, **asked})
    assert good(capped, mode=nested(128)).endswith("]" * 128)
    with pytest.raises(TokenizerError, match="has none"):
        CappedTemplates({}, {}).render(MESSAGES, add_generation_prompt=True)


QUICK = ("an endless loop", "a long string", "a macro without end", "attributes", "a number with a billion digits")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in HOSTILE]
)
def test_hostile_templates_end_in_time_and_the_next_one_is_served(name: str, capped: CappedTemplates) -> None:
    expected = good(capped)
    began = time.monotonic()
    with pytest.raises((PromptError, TokenizerError)) as refused:
        capped.render(MESSAGES, add_generation_prompt=True, chat_template=name)
    assert time.monotonic() - began < 5
    assert len(str(refused.value)) < 700
    assert "Traceback" not in str(refused.value)
    assert good(capped) == expected


def test_formats_do_not_reach_into_objects() -> None:
    for source in FORMATS:
        try:
            told = ChatTemplates({"default": source}, {}).render(MESSAGES, add_generation_prompt=True)
        except PromptError:
            continue
        assert told == ""


def test_a_child_that_died_is_replaced(capped: CappedTemplates) -> None:
    expected = good(capped)
    child = capped._child._process
    assert child is not None
    child.kill()
    child.wait()
    assert good(capped) == expected
    assert capped._child._process is not child


def test_a_child_ends_with_its_templates(capped: CappedTemplates) -> None:
    templates = CappedTemplates({"good": GOOD}, {})
    good(templates)
    child, seen = templates._child._process, weakref.ref(templates)
    assert child is not None
    pid = child.pid
    del child, templates
    gc.collect()
    assert seen() is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_thread_that_ends_takes_no_child_with_it() -> None:
    templates = CappedTemplates({"good": GOOD}, {})
    first = threading.Thread(target=good, args=(templates,))
    try:
        first.start()
        first.join()
        child, until = templates._child._process, time.monotonic() + 5
        while Path(f"/proc/self/task/{first.native_id}").exists():  # it is joined a little before it has ended
            assert time.monotonic() < until
            time.sleep(0.001)
        assert good(templates)
        assert child is not None
        assert templates._child._process is child
    finally:
        templates.close()
    assert child.poll() is not None


@pytest.mark.parametrize(
    ("does", "told"), [("import time; time.sleep(60)", "TimeoutError"), ("raise SystemExit(3)", "EOFError|Broken pipe")]
)
def test_a_child_that_does_not_start_is_no_fault_of_the_template(
    does: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates = CappedTemplates({"good": GOOD}, {})
    with monkeypatch.context() as patched:
        patched.setattr(templates._child, "_command", ("-c", does))
        patched.setattr(asked_child, "START_S", 0.3)
        patched.setattr(frames, "START_S", 0.3)
        with pytest.raises(ChildError, match=rf"process of chat templates is .*({told}).*within 0.3 s"):
            good(templates)
        assert templates._child._process is None
    assert good(templates)
    templates.close()


def test_the_child_gets_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEY_VARIABLES:
        monkeypatch.setenv(name, "sk-secret")
    monkeypatch.setenv("JAXPAGED_TEST_OTHER", "kept")
    templates = CappedTemplates({"good": GOOD}, {})
    try:
        good(templates)
        assert templates._child._process is not None
        given = Path(f"/proc/{templates._child._process.pid}/environ").read_bytes()
    finally:
        templates.close()
    assert b"HF_TOKEN" not in given
    assert b"sk-secret" not in given
    assert b"JAXPAGED_TEST_OTHER=kept" in given


def test_ctrl_c_leaves_no_answer_for_the_next_one(capped: CappedTemplates, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = good(capped)

    def interrupt(*_: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(asked_child, "_read", interrupt)
        with pytest.raises(KeyboardInterrupt):
            good(capped, mode="the first")
    assert good(capped) == expected


def test_the_child_imports_nothing_from_the_current_folder(
    capped: CappedTemplates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("jinja2", "msgspec", "json"):
        (tmp_path / f"{name}.py").write_text("open('canary', 'w').close()\nraise ImportError('a stranger')")
    monkeypatch.chdir(tmp_path)
    assert good(capped)
    assert not (tmp_path / "canary").exists()
