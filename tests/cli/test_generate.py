"""Prompts from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jaxpaged.commands import generate
from jaxpaged.commands.terminal import for_few
from jaxpaged.config import EngineConfig
from jaxpaged.errors import PromptError
from jaxpaged.request import SamplingParams

THREE = SamplingParams(max_tokens=3)


def test_a_text_follows_its_prompt(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.complete(engine, ["abcd"], THREE, quiet=True) == 0
    assert capsys.readouterr() == ("abcdabc\n", "")


def test_texts_come_in_order_whoever_ends_first(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    engine.config.max_num_seqs = 3
    assert generate.complete(engine, ["ab", "cd", "ef"], THREE, quiet=True) == 0
    assert capsys.readouterr().out == "ababa\n\ncdcdc\n\nefefe\n"


def test_the_first_text_streams(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []
    engine.before_step = lambda: seen.append(capsys.readouterr().out)
    generate.complete(engine, ["ab", "cd"], THREE, quiet=True)
    assert seen == ["ab", "a", "b"]
    assert capsys.readouterr().out == "a\n\ncdcdc\n"


def test_a_failed_request_is_told_and_the_others_go_on(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.complete(engine, ["bad", "cd"], THREE, quiet=True) == 1
    out, err = capsys.readouterr()
    assert out == "bad\n\ncdcdc\n"
    assert err == "error: prompt 1: the model said nonsense\n"


def test_every_prompt_is_checked_before_the_first_begins(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PromptError):
        generate.complete(engine, ["ab", ""], THREE, quiet=True)
    assert engine.submitted == []
    assert capsys.readouterr().out == ""


def test_an_interrupt_leaves_nothing_in_the_engine(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        if engine.metrics.steps == 1:
            raise KeyboardInterrupt

    engine.before_step = interrupt
    with pytest.raises(KeyboardInterrupt):
        generate.complete(engine, ["ab", "cd", "ef"], THREE, quiet=True)
    assert not engine.going
    assert capsys.readouterr().out == "aba\n"


def test_what_the_terminal_cannot_show_does_not_end_the_run(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding="ascii"))
    assert generate.complete(engine, ["é"], SamplingParams(max_tokens=1), quiet=True) == 0
    assert data.getvalue() == b"??\n"


def test_figures_go_to_stderr(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    generate.complete(engine, ["ab"], THREE, quiet=False)
    out, err = capsys.readouterr()
    assert out == "ababa\n"
    assert err.startswith("3 tokens in ")


def test_few_prompts_need_few_step_shapes() -> None:
    assert for_few(EngineConfig(), 3) == EngineConfig(max_num_seqs=8)
    assert for_few(EngineConfig(), 9) == EngineConfig()
    assert for_few(EngineConfig(max_num_seqs=64), 3) == EngineConfig(max_num_seqs=64)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"temperature": 0.2, "top_p": 0.95, "max_tokens": 4}),
        (["--temperature", "0.7", "--max_tokens=3"], {"temperature": 0.7, "top_p": 0.95, "max_tokens": 3}),
        (["--generation-config", "vllm"], {"temperature": 0.7, "top_p": 0.95, "max_tokens": 128}),
        (["--override-generation-config", '{"top_p": 0.5}'], {"temperature": 0.2, "top_p": 0.5, "max_tokens": 4}),
    ],
)
def test_what_the_line_leaves_unsaid_has_the_models_defaults(
    engine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str], expected: dict[str, float]
) -> None:
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.2, "max_new_tokens": 4}')
    monkeypatch.setattr(generate, "start_engine", lambda config, quiet: engine)
    assert generate.main(["--model", str(tmp_path), "--quiet", *words, "--", "ab"]) == 0
    [(_, params)] = engine.submitted
    assert {name: getattr(params, name) for name in expected} == expected
