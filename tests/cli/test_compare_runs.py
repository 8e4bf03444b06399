"""`jaxpaged bench compare` from the command line, with engines that are small scripts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from cli.compare_config import fake, write_config
from jaxpaged_server.cli import main

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """What a page holds; fails where tags do not close in order."""

    VOID = ("meta", "line", "rect", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at the machine takes half a second a run."""
    monkeypatch.setattr("jaxpaged.bench.machine.busyness", lambda: {"load_1m": 0.5, "busy_before": 0.25})


def compare(config: Path, *words: str, out: str = "out") -> int:
    return main(["bench", "compare", "--config", str(config), "--output", str(config.parent / out), *words])


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_two_engines_in_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cores = os.sched_getaffinity(0)
    engines = fake(tmp_path, "one", "[10, 30, 20]") + fake(tmp_path, "two", "[5, 6, 4]")
    assert compare(write_config(tmp_path, engines), "--rounds", "3") == 0
    out, err = capsys.readouterr()
    assert "round 3, load, two: 4 tokens/s" in err
    assert re.search(r"load +one +f32 +20 ", err)
    ran = [line.split()[0] for line in (tmp_path / "journal").read_text().splitlines()]
    assert ran == ["one", "two", "two", "one", "one", "two"]
    summary = json.loads(out)
    assert [(r["engine"], r["out_tok_s"]["median"]) for r in summary["results"]] == [("one", 20), ("two", 5)]
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    first = rows_of(tmp_path / "out")[0]
    assert (first["settings"], first["versions"], first["precision"]) == ({"threads": 1}, {"fake": "1.2"}, "f32")
    assert {"load_1m", "busy_before", "started_at", "machine", "ttft_p50_ms"} <= first.keys()
    assert (tmp_path / "out" / "logs" / "load-one-1.log").read_text() == "fake engine at work\n"
    assert os.sched_getaffinity(0) == cores, "only the engines were confined"


def test_an_engine_that_fails_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engines = (
        fake(tmp_path, "good", "[10, 20]")
        + fake(tmp_path, "crashes", "[5, 5]", more=", crash_in_round = 2")
        + fake(tmp_path, "silent", "[5, 5]", more=", silent = true")
        + fake(tmp_path, "slow", "[5, 5]", more=", sleep = 60")
        + fake(tmp_path, "short", "[5, 5]", more=", row = { short = 2 }")
        + fake(tmp_path, "failing", "[5, 5]", more=', row = { errors = 1, first_error = "no memory" }')
        + fake(tmp_path, "unlike", "[5, 5]", more=', row = { precision_found = "bfloat16" }')
    )
    config = write_config(tmp_path, engines)
    config.write_text(config.read_text().replace("timeout_s = 30", "timeout_s = 1"))
    assert compare(config, "--quiet") == 1
    errors = {(row["engine"], row["round"]): row.get("error", "") for row in rows_of(tmp_path / "out")}
    assert errors["good", 0] == errors["good", 1] == errors["crashes", 0] == ""
    assert errors["crashes", 1] == "it ended with status 1: fake engine at work | out of luck"
    assert errors["silent", 0].startswith("it wrote no row (")
    assert errors["slow", 0] == "not done in 1 s"
    assert errors["short", 0] == "2 of 4 requests got another number of tokens"
    assert errors["failing", 0] == "1 of 4 requests failed: no memory"
    assert errors["unlike", 0] == "it computed in bf16, its entry says f32"
    results = {result["engine"]: result for result in told(capsys)["results"]}
    assert results["crashes"]["out_tok_s"]["values"] == [5]
    assert "out_tok_s" not in results["short"], "figures of other work are no figures"
    page = "".join(Page((tmp_path / "out" / "report.html").read_text()).words)
    assert "Error: crashes, load, round 2: it ended with status 1" in page
    assert "before 14 of 14 runs more than 10% of its processor time was in use (up to 25%)" in page


def test_what_is_not_there_is_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (
        ("no python", "openvino", 'python = "./ov/bin/python"'),
        ("no package", "vllm", f'python = "{sys.executable}"'),
        ("no server", "llamacpp-server", 'server = "llama-server-of-nobody"'),
        ("no model", "script", 'script = "./fake.py"\nweights = "gguf"'),
    )
    engines = "".join(f'[[engines]]\nname = "{n}"\nkind = "{k}"\nprecision = "bf16"\n{p}\n' for n, k, p in lines)
    config = write_config(tmp_path, fake(tmp_path, "here", "[10]") + engines)
    assert compare(config, "--rounds", "1") == 0
    out, err = capsys.readouterr()
    whys = {item["engine"]: item["why"] for item in json.loads(out)["left_out"]}
    assert whys["no python"] == (
        f"python {tmp_path}/ov/bin/python is not there: python -m venv ENV && "
        "ENV/bin/pip install openvino-genai 'optimum-intel[openvino]'"
    )
    assert whys["no package"].startswith(f"{sys.executable} has no vllm: python -m venv ENV")
    assert whys["no server"].startswith("server llama-server-of-nobody is not there: build llama.cpp")
    assert whys["no model"].startswith("[models.m] has no 'gguf': make it with")
    assert "left out: no server (load): server llama-server-of-nobody" in err
    assert "Left out: no python (load)" in "".join(Page((tmp_path / "out" / "report.html").read_text()).words)
    assert compare(config, "--only", "no server", out="none") == 2
    assert "nothing has 'no server' in it" in capsys.readouterr().err


def test_an_interrupt_keeps_what_was_measured(tmp_path: Path) -> None:
    engines = fake(tmp_path, "one", "[10, 30]") + fake(tmp_path, "sleeper", "[5, 6]", more=", sleep = 100")
    config = write_config(tmp_path, engines)
    words = ["bench", "compare", "--config", str(config), "--output", str(tmp_path / "out")]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "server")])
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxpaged_server.cli", *words],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    sleeps, pid = tmp_path / "journal.sleeps", ""
    until_s = time.monotonic() + 60
    while not pid and time.monotonic() < until_s:
        time.sleep(0.05)
        pid = sleeps.read_text() if sleeps.exists() else ""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: 1 of 4 runs have a row; --resume goes on" in err
    assert json.loads(out)["interrupted"] is True
    assert [(row["engine"], row["out_tok_s"]) for row in rows_of(tmp_path / "out")] == [("one", 10)]
    assert "Interrupted: this is" in "".join(Page((tmp_path / "out" / "report.html").read_text()).words)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_resume_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, fake(tmp_path, "one", "[10, 30, 20]", more=", crash_in_round = 2"))
    assert compare(config) == 1
    assert compare(config) == 2
    assert "it holds rows of an earlier run" in capsys.readouterr().err
    assert compare(config, "--resume") == 0
    assert told(capsys)["results"][0]["out_tok_s"]["values"] == [10, 20]
    assert (tmp_path / "journal").read_text().count("one") == 3


def test_the_page_stands_alone(tmp_path: Path) -> None:
    hurt = '<b>"&amp;'
    engines = fake(tmp_path, "one", "[10, 30]") + fake(tmp_path, "two", "[5, 6]", precision="bf16")
    config = write_config(tmp_path, engines, head=f"title = '{hurt}'")
    assert compare(config, "--quiet") == 0
    text = (tmp_path / "out" / "report.html").read_text()
    page = Page(text)
    assert hurt in page.words
    assert not page.all("b")
    assert not page.all("script")
    assert not page.all("link")
    assert "http" not in re.sub(r"<pre.*?</pre>", "", text), "nothing is fetched"
    assert "@import" not in text
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert page.all("html") == [{"lang": "en"}]
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {attrs["href"] for attrs in page.all("a")} <= {f"#{name}" for name in ids}
    assert all(attrs.get("tabindex") == "0" for attrs in page.all("div")), "what scrolls can be reached by keyboard"
    pictures = page.all("svg")
    assert len(pictures) == 2  # tokens/s and TTFT: nobody told a TPOT
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in pictures)
    assert "20 tokens/s" in page.words
    assert "20 (10 to 30)" in page.words
    assert len([attrs for attrs in page.all("line") if attrs.get("class") == "mark"]) == 8
    assert {"like for like", "UNLIKE: f32 against bf16"}.isdisjoint(page.words), "no engine here is this project's"


def test_help_says_where_the_method_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "compare", "--help"]) == 0
    assert "docs/BENCHMARKS.md" in capsys.readouterr().out
