"""The command line with the bundled model, in processes of its own: what is printed, and what survives being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SMALL = (
    *("--max-num-seqs", "8", "--max-num-batched-tokens", "128"),
    *("--max-model-len", "512", "--num-gpu-blocks-override", "80"),
)
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'server'}"}


class Shell:
    """Runs `jaxpaged` of this tree; compiled programs are kept between the tests of this file."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "jaxpaged_server.cli", *words, *SMALL, "--compile-cache", str(self._cache)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=ENVIRONMENT, text=True, **{**pipes, **options})

    def run(self, *words: str, **options: Any) -> tuple[int, str, str]:
        with self.start(*words, **options) as process:
            out, err = process.communicate(timeout=200)
        return process.returncode, out, err


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("programs"))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_generate_prints_the_text_and_nothing_else(shell: Shell) -> None:
    status, out, err = shell.run("generate", "def fibonacci(n):", "--max-tokens", "24")
    assert status == 0, err
    assert out.startswith("def fibonacci(n):")
    assert len(out) > len("def fibonacci(n):") + 24
    for name in ("model", "dtype", "KV pool", "attention", "ready in"):
        assert f"\n  {name} " in err.replace("\r", "\n"), name
    assert shell.run("generate", "def fibonacci(n):", "--max-tokens", "24", "--quiet") == (0, out, "")


def test_ctrl_c_ends_cleanly(shell: Shell) -> None:
    with shell.start("generate", "import ", "--max-tokens", "500", "--ignore-eos", "--quiet") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        begun = process.stdout.read(len("import ") + 8)
        process.send_signal(signal.SIGINT)
        rest, err = process.stdout.read(), process.stderr.read()
        assert process.wait(60) == 130
    assert begun.startswith("import ")
    assert len(begun + rest) < 500
    assert err == ""


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    lines: list[dict[str, Any]] = [{"prompt": f"def function_{i}(", "id": f"row-{i}"} for i in range(60)]
    lines[7] = {"prompt": 7, "id": "wrong"}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


DRAWN = ("--temperature", "1", "--max-tokens", "40", "--ignore-eos", "--quiet")


@pytest.fixture(scope="module")
def whole(shell: Shell, prompts: Path) -> dict[int, dict[str, Any]]:
    output = prompts.with_name("whole.jsonl")
    status, out, err = shell.run("generate", "--input", str(prompts), "--output", str(output), *DRAWN)
    assert (status, out) == (1, "")
    assert err == "error: input line 8: prompt is 7: it must be a string\n"
    found = rows(output)
    assert sorted(row["index"] for row in found) == list(range(60))
    assert [row["id"] for row in found if "error" in row] == ["wrong"]
    return {row["index"]: row for row in found}


def wait_for_rows(path: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline, "no rows came"
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_and_comes_to_the_same(
    shell: Shell, prompts: Path, whole: dict[int, dict[str, Any]], how: signal.Signals
) -> None:
    output = prompts.with_name(f"{how.name}.jsonl")
    words = ("generate", "--input", str(prompts), "--output", str(output), *DRAWN)
    with shell.start(*words) as process:
        wait_for_rows(output, 9)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if how is signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in err
    kept = output.read_bytes()
    assert 9 <= kept.count(b"\n") < 60
    status, _, err = shell.run(*words)
    assert status == 1, err
    assert output.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    found = rows(output)
    assert len(found) == 60
    assert {row["index"]: row for row in found} == whole


def test_chat_from_a_pipe(shell: Shell, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_text("hello\n/reset\nhello\n")
    with lines.open() as stdin:
        status, out, err = shell.run("chat", "--quiet", "--temperature", "0", "--max-tokens", "8", stdin=stdin)
    assert (status, err) == (0, "the conversation is forgotten\n")
    assert out
    assert out[: len(out) // 2] == out[len(out) // 2 :]


def test_bench_prints_one_row(shell: Shell) -> None:
    words = ("bench", "throughput", "--num-requests", "5", "--input-len", "20", "--output-len", "6", "--quiet")
    status, out, err = shell.run(*words)
    assert (status, err) == (0, "")
    row = json.loads(out)
    assert (row["requests"], row["finished"], row["in_tokens"], row["out_tokens"]) == (5, 5, 100, 30)
    assert row["compiles_after_ready"] == 0
    assert 0 < row["ttft_p50_ms"] <= row["ttft_p99_ms"]
    assert row["settings"]["max_num_seqs"] == 8


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--model", "/nowhere/at/all"), "there is no such folder"),
        (("--model", str(ROOT / "docs")), "config.json"),
        (("--max-model-len", "99999999"), "max_model_len is 99999999"),
    ],
)
def test_an_engine_that_cannot_be_is_one_line(words: tuple[str, str], told: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "jaxpaged_server.cli", "generate", "x", "--quiet", *words],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: ")
    assert told in err
    assert len(err.splitlines()) == 1
