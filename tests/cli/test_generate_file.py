"""A file of prompts: every line answered once, whatever happened between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jaxpaged.commands import generate_file
from jaxpaged.commands.generate import main
from jaxpaged.errors import EngineError, OutputError, TokenizerError
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.tokenize import Tokenizer


class Files:
    """An input, an output, and a command that joins them with a fresh engine each time."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, engine: Any) -> None:
        self.input, self.output = folder / "in.jsonl", folder / "out.jsonl"
        self.engine = engine
        self.num_starts = 0
        monkeypatch.setattr(generate_file, "start_engine", self._start)

    def _start(self, config: object, *, quiet: bool) -> Any:
        self.num_starts += 1
        return self.engine

    def lines(self, *values: object) -> None:
        self.input.write_text("".join(f"{v if isinstance(v, bytes) else json.dumps(v)}\n" for v in values))

    def run(self, *flags: str) -> int:
        return main(["--input", str(self.input), "--output", str(self.output), "--quiet", "--max-tokens", "3", *flags])

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.read_text(encoding="utf-8").splitlines()]

    def texts(self) -> dict[int, str]:
        return {row["index"]: row["text"] for row in self.rows()}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any) -> Files:
    return Files(tmp_path, monkeypatch, engine)


def test_a_row_holds_what_was_asked_and_what_came(files: Files) -> None:
    files.lines(
        "ab", {"prompt_token_ids": [99, 100], "id": 7}, {"messages": [{"role": "u", "content": "x"}], "id": "m"}
    )
    assert files.run() == 0
    rows = sorted(files.rows(), key=lambda row: row["index"])
    digests = [row.pop("digest") for row in rows]
    assert rows[0] == {
        "index": 0,
        "id": None,
        "prompt": "ab",
        "text": "aba",
        "token_ids": [97, 98, 97],
        "finish_reason": "length",
        "num_prompt_tokens": 2,
    }
    assert (rows[1]["id"], rows[1]["prompt"], rows[1]["text"]) == (7, None, "cdc")
    assert (rows[2]["id"], rows[2]["prompt"], rows[2]["text"]) == ("m", "u:x|assistant:", "u:x")
    assert len(set(digests)) == 3


def test_the_engine_holds_a_window_of_the_file(files: Files) -> None:
    files.lines(*[f"{i:02d}" for i in range(20)])
    assert files.run() == 0
    assert files.engine.most_in_flight == 4  # twice what a step takes
    assert files.texts() == {i: f"{i:02d}"[:2] + f"{i:02d}"[0] for i in range(20)}


def test_bad_lines_become_error_rows(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.input.write_text('"ab"\n{"prompt": 5, "id": "x"}\n\n"bad"\n{"prompt": ""}\n{"messages": [{}]}\n"cd"\n')
    assert files.run() == 1
    rows = {row["index"]: row for row in files.rows()}
    assert {index for index, row in rows.items() if "error" in row} == {1, 3, 4, 5}
    assert rows[1]["id"] == "x"
    assert rows[1]["finish_reason"] == "error"
    assert "it must be a string" in rows[1]["error"]
    assert rows[3]["error"] == "the model said nonsense"
    assert (rows[0]["text"], rows[6]["text"]) == ("aba", "cdc")
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert sorted(line.split(":")[1] for line in told) == [f" input line {n}" for n in (2, 4, 5, 6)]


def test_a_conversation_for_a_model_without_template_is_a_bad_line(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise TokenizerError(name="chat template", value=None, limit="the model has none")

    monkeypatch.setattr(files.engine.tokenizer, "apply_chat_template", refuse)
    files.lines({"messages": [{"role": "u", "content": "x"}], "id": "m"}, "ab")
    assert files.run() == 1
    rows = {row["index"]: row for row in files.rows()}
    assert "the model has none" in rows[0]["error"]
    assert (rows[0]["id"], rows[0]["finish_reason"], rows[1]["text"]) == ("m", "error", "aba")


def stop_after(files: Files, steps: int, error: BaseException) -> None:
    def stop() -> None:
        if files.engine.metrics.steps >= steps:
            raise error

    files.engine.before_step = stop


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EngineError(name="engine", value=0, limit="it broke")])
def test_a_stopped_run_goes_on(files: Files, error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    files.lines("ab", "cd", "ef", "gh", "ij")
    stop_after(files, 4, error)
    with pytest.raises(type(error)):
        files.run()
    assert files.texts() == {0: "aba", 1: "cdc"}
    assert not files.engine.going
    assert "holds 2 of 5 rows; the same command goes on" in capsys.readouterr().err
    before = files.output.read_bytes()
    files.engine.before_step = lambda: None
    files.engine.submitted.clear()
    assert files.run() == 0
    assert [prompt for prompt, _ in files.engine.submitted] == ["ef", "gh", "ij"]
    assert files.output.read_bytes().startswith(before)
    assert files.texts() == {0: "aba", 1: "cdc", 2: "efe", 3: "ghg", 4: "iji"}
    assert len(files.rows()) == 5


def test_a_row_cut_by_a_crash_is_done_again(files: Files) -> None:
    files.lines("ab", "cd")
    files.run()
    whole = files.output.read_bytes()
    files.output.write_bytes(whole[:-9])
    assert files.run() == 0
    assert files.output.read_bytes() == whole


def test_nothing_left_to_do_starts_no_engine(files: Files) -> None:
    files.lines("ab")
    assert files.run() == 0
    assert files.run() == 0
    assert files.num_starts == 1


def test_a_line_draws_alike_in_a_first_and_in_a_second_run(files: Files) -> None:
    files.lines("ab", "cd", "ef")
    files.run()
    first = {prompt: params.seed for prompt, params in files.engine.submitted}
    files.output.write_bytes(files.output.read_bytes().split(b"\n")[0] + b"\n")
    files.engine.submitted.clear()
    files.run()
    again = {prompt: params.seed for prompt, params in files.engine.submitted}
    assert len(again) == 2
    assert again.items() <= first.items()


def test_a_changed_line_is_refused_by_name(files: Files) -> None:
    files.lines("ab", "cd")
    files.run()
    before = files.output.read_bytes()
    files.lines("ab", "CD", "ef")
    with pytest.raises(OutputError, match=r"row of index 1.*input line 2.*the line has changed"):
        files.run()
    assert files.output.read_bytes() == before
    assert files.num_starts == 1


@pytest.mark.parametrize("flags", [["--temperature", "0.5"], ["--seed", "3"], ["--model", "other"]])
def test_changed_settings_are_refused(
    files: Files, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    files.lines("ab")
    files.run()
    with pytest.raises(OutputError, match="the model, the seed or the sampling options differ"):
        files.run(*flags)


def test_options_of_speed_may_change(files: Files) -> None:
    files.lines("ab")
    files.run()
    assert files.run("--max-num-seqs", "7", "--no-enable-prefix-caching") == 0


def test_a_shorter_input_is_refused(files: Files) -> None:
    files.lines("ab", "cd")
    files.run()
    files.lines("ab")
    with pytest.raises(OutputError, match="row of line 2, and the input has no such line"):
        files.run()


def test_a_mended_line_is_done_again(files: Files) -> None:
    files.input.write_text('"ab"\n{"prompt": 5}\n')
    assert files.run() == 1
    assert files.run() == 1  # the error stands; it is not done again
    assert len(files.rows()) == 2
    files.lines("ab", "cd")
    assert files.run() == 0
    assert [row["text"] for row in files.rows()] == ["", "aba", "cdc"]


def test_the_output_may_not_be_the_input(files: Files) -> None:
    files.lines("ab")
    before = files.input.read_bytes()
    with pytest.raises(OutputError, match="it is the input"):
        main(["--input", str(files.input), "--output", str(files.input)])
    assert files.input.read_bytes() == before


def test_a_full_disk_names_the_file_and_keeps_the_rows(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    files.lines("ab", "cd", "ef")
    real = os.write

    def full(fd: int, data: bytes) -> int:
        if files.output.stat().st_size > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match=r"out.jsonl.*No space left on device.*the 1 rows before it are kept"):
        files.run()
    monkeypatch.setattr(os, "write", real)
    assert files.texts() == {0: "aba"}
    assert not files.engine.going
    assert files.run() == 0
    assert files.texts() == {0: "aba", 1: "cdc", 2: "efe"}


def test_a_template_that_takes_too_much_ends_its_line_only(files: Files, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((TINY_MODEL / "tokenizer.json").read_bytes())
    (folder / "chat_template.jinja").write_text("{{ 'a' * messages[0].content | int }}")
    files.engine.tokenizer = Tokenizer.load(folder)
    files.lines(*({"messages": [{"role": "user", "content": count}]} for count in ("3", "9" * 10, "2")))
    assert files.run() == 1
    rows = {row["index"]: row for row in files.rows()}
    assert [rows[i]["prompt"] for i in (0, 2)] == ["aaa", "aa"]
    assert "the chat template takes too much memory" in rows[1]["error"]
