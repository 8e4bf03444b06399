"""The dispatcher: which subcommand, and what becomes of an error."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from jaxpaged_server.cli import main

from jaxpaged import __version__
from jaxpaged.commands import COMMANDS, Command, guarded, run
from jaxpaged.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"], ["help"]):
        assert main(words) == 0
        shown = capsys.readouterr().out
        assert all(" ".join(command.words) in shown for command in COMMANDS)


def test_a_group_alone_shows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 0
    shown = capsys.readouterr().out
    assert "bench throughput" in shown
    assert "generate" not in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"jaxpaged {__version__}\n"


@pytest.mark.parametrize(
    ("words", "near"), [(["genrate", "x"], "generate"), (["bench", "troughput"], "bench throughput")]
)
def test_an_unknown_command_gets_a_hint(words: list[str], near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert f"Did you mean {near!r}?" in err
    assert len(err.splitlines()) == 1


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A command that ends as told: with a status, or by raising."""

    def make(end: int | BaseException) -> Command:
        def entry(argv: list[str]) -> int:
            if isinstance(end, BaseException):
                raise end
            return end + len(argv)

        monkeypatch.setitem(sys.modules, "ending_command", types.SimpleNamespace(main=entry))  # pyright: ignore[reportArgumentType]
        return Command(words=("ending",), summary="", module="ending_command")

    return make


@pytest.mark.parametrize(
    ("end", "status", "shown"),
    [
        (0, 0, ""),
        (1, 1, ""),
        (SystemExit(2), 2, ""),
        (SystemExit(None), 0, ""),
        (KeyboardInterrupt(), 130, ""),
        (
            ConfigError(name="dtype", value="int3", limit="no\nsuch", fix="Try auto"),
            2,
            "dtype is 'int3': no such. Try auto",
        ),
        (FileNotFoundError(2, "No such file", "x.json"), 2, "[Errno 2] No such file: 'x.json'"),
    ],
)
def test_how_a_command_ends(
    end: int | BaseException, status: int, shown: str, ending: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(lambda: run(ending(end), [])) == status
    assert capsys.readouterr().err == (f"error: {shown}\n" if shown else "")


def test_a_closed_pipe_is_silent(
    ending: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # no file descriptor to point elsewhere
    assert guarded(lambda: run(ending(BrokenPipeError()), [])) == 141
    assert capsys.readouterr().err == ""


def test_notes_of_an_error_are_told(ending: Any, capsys: pytest.CaptureFixture[str]) -> None:
    error = ConfigError(name="a", value=1, limit="no")
    error.add_note("in prompt 3 of 4")
    assert guarded(lambda: run(ending(error), [])) == 2
    assert capsys.readouterr().err == "error: a is 1: no (in prompt 3 of 4)\n"


def test_our_own_mistakes_keep_their_traceback(ending: Any) -> None:
    with pytest.raises(AssertionError):
        guarded(lambda: run(ending(AssertionError("ours")), []))


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which `jaxpaged` is this tree's."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'server'}"}
    script = f"jaxpaged() {{ '{sys.executable}' -m jaxpaged_server.cli \"$@\"; }}\n{line}"
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=120)


def test_a_wrong_flag_ends_with_2_and_the_nearest_one() -> None:
    done = shell("jaxpaged generate --max-model-ln 64 x")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "--max-model-len" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("jaxpaged generate --top-p 3 x", "error: top_p is 3.0: it must be a number above 0 and at most 1."),
        ("jaxpaged generate --block-size 3 x", "error: block_size is 3: it must be a power of two"),
        ("jaxpaged generate", "error: prompts is []: give either prompts, or --input and --output."),
        ("jaxpaged generate --input a.jsonl", "error: --output is None: --input and --output go together"),
        ("jaxpaged bench throughput --num-requests 0", "error: --num-requests is 0: it must be at least 1"),
        ("jaxpaged bench throughput --input /nowhere.jsonl", "error: --input is '/nowhere.jsonl': No such file"),
        ("jaxpaged generate --input /nowhere.jsonl --output /tmp/never", "error: --input is '/nowhere.jsonl': No such"),
        ("printf 'caf\\xe9' | jaxpaged generate -", "error: stdin is 'caf\\udce9': character 3 is not Unicode text"),
    ],
)
def test_what_cannot_be_is_one_line(line: str, told: str) -> None:
    done = shell(line)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(told)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", ["--help", "generate --help"])
def test_a_full_stdout_is_one_line(words: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    done = shell(f"jaxpaged {words} > /dev/full")
    assert done.returncode == 2
    assert done.stderr == "error: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("words", ["--help", "generate --help"])
def test_a_reader_that_goes_away_is_no_error(words: str) -> None:
    done = shell(f"set -o pipefail; {{ sleep 0.5; jaxpaged {words}; }} | true")
    assert (done.returncode, done.stderr) == (141, "")
