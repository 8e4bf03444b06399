"""The conversation in the terminal."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile_templates import HOSTILE

from jaxpaged.commands.chat import Chat, talk
from jaxpaged.errors import PromptError
from jaxpaged.request import SamplingParams
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.tokenize import Tokenizer

FIVE = SamplingParams(max_tokens=5)


def say(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_an_answer_joins_the_conversation(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    chat = Chat(engine, FIVE, system_prompt="be")
    assert chat.ask("hi")
    assert capsys.readouterr().out == "syste\n"
    assert chat.messages == [
        {"role": "system", "content": "be"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "syste"},
    ]
    chat.ask("so")
    assert engine.submitted[1][0] == "system:be|user:hi|assistant:syste|user:so|assistant:"


def test_reset_keeps_the_system_prompt(engine: Any) -> None:
    chat = Chat(engine, FIVE, system_prompt="be")
    chat.ask("hi")
    chat.reset()
    assert chat.messages == [{"role": "system", "content": "be"}]


def test_lines_from_a_pipe(engine: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    say("one\n\n/reset\ntwo\n/exit\nnever\n", monkeypatch)
    assert talk(Chat(engine, FIVE), interactive=False) == 0
    assert [prompt for prompt, _ in engine.submitted] == ["user:one|assistant:", "user:two|assistant:"]
    out, err = capsys.readouterr()
    assert out == "user:\nuser:\n"
    assert err == "the conversation is forgotten\n"


def test_the_end_of_input_ends_the_conversation(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    say("one", monkeypatch)
    assert talk(Chat(engine, FIVE), interactive=False) == 0
    assert len(engine.submitted) == 1


def interrupt_at(engine: Any, step: int) -> None:
    def interrupt() -> None:
        if engine.metrics.steps == step:
            engine.before_step = lambda: None
            raise KeyboardInterrupt

    engine.before_step = interrupt


def test_ctrl_c_stops_the_answer_and_the_conversation_goes_on(
    engine: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say("one\ntwo\n", monkeypatch)
    interrupt_at(engine, 2)
    assert talk(Chat(engine, FIVE), interactive=True) == 0
    assert not engine.going
    assert engine.submitted[1][0] == "user:one|assistant:us|user:two|assistant:"
    assert capsys.readouterr().out == "> us\n> user:\n> \n"


def test_a_pool_that_ctrl_c_took_is_made_anew(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    say("one\ntwo\n", monkeypatch)
    interrupt_at(engine, 2)
    engine.on_step = lambda: setattr(engine, "pool_is_lost", engine.metrics.steps == 1)
    assert talk(Chat(engine, FIVE), interactive=True) == 0
    assert not engine.pool_is_lost
    assert len(engine.submitted) == 2


def test_ctrl_c_ends_a_run_that_nobody_types_into(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    say("one\ntwo\n", monkeypatch)
    interrupt_at(engine, 2)
    with pytest.raises(KeyboardInterrupt):
        talk(Chat(engine, FIVE), interactive=False)
    assert len(engine.submitted) == 1


def test_a_message_that_cannot_be_leaves_the_conversation_as_it_was(
    engine: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = Chat(engine, FIVE)
    say("one\n\udce9\ntwo\n", monkeypatch)
    assert talk(chat, interactive=False) == 0
    assert [message["content"] for message in chat.messages if message["role"] == "user"] == ["one", "two"]
    assert "error: message is " in capsys.readouterr().err

    def refuse(*_: object, **__: object) -> str:
        raise PromptError(name="prompt length", value=99, limit="too long")

    monkeypatch.setattr(engine, "submit", refuse)
    before = list(chat.messages)
    say("three\n", monkeypatch)
    assert talk(chat, interactive=False) == 0
    assert chat.messages == before
    assert "/reset begins a new conversation" in capsys.readouterr().err


def test_a_template_that_takes_too_much_ends_its_question_only(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Templates come with models from strangers, in this process's terminal, too."""
    (tmp_path / "tokenizer.json").write_bytes((TINY_MODEL / "tokenizer.json").read_bytes())
    hostile = (
        "{% if messages[-1].content == 'big' %}" + HOSTILE["a long string"] + "{% endif %}{{ messages[-1].content }}"
    )
    (tmp_path / "chat_template.jinja").write_text(hostile)
    engine.tokenizer = Tokenizer.load(tmp_path)
    say("big\nsmall\n", monkeypatch)
    assert talk(Chat(engine, FIVE), interactive=False) == 0
    assert len(engine.submitted) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: messages is '(this conversation)': the chat template takes too much memory")
