"""Comparing engines: the config, who runs when, medians and ratios of pairs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli.compare_config import fake, write_config

from jaxpaged.bench.compare import Absence, Rows, Turn, turns
from jaxpaged.bench.comparison import Comparison, Engine, read_comparison
from jaxpaged.bench.launch import make_job
from jaxpaged.bench.machine import busyness, describe_machine
from jaxpaged.bench.report import page
from jaxpaged.bench.summary import Spread, ratios, results, summary, text_table
from jaxpaged.errors import ConfigError

TWO_CASES = "".join(
    f'[[cases]]\nname = "{name}"\nmodel = "m"\ntrace = "off.jsonl"\n{more}'
    for name, more in (("load", ""), ("alone", "max_concurrency = 1\nlimit = 3\n"))
)


def read(folder: Path, engines: str, *, head: str = "", cases: str = "") -> Comparison:
    return read_comparison(write_config(folder, engines, head=head, cases=cases))


def row(engine: str, turn: int, rate: float, **more: Any) -> dict[str, Any]:
    return {"case": "load", "engine": engine, "round": turn, "out_tok_s": rate, **more}


def test_a_config_is_read(tmp_path: Path) -> None:
    engines = fake(tmp_path, "a", "[1]") + fake(tmp_path, "b", "[1]", cases='cases = ["alone"]\n')
    comparison = read(tmp_path, engines, head='title = "T"\nmax_num_seqs = 8', cases=TWO_CASES)
    assert (comparison.title, comparison.threads, comparison.rounds, comparison.timeout_s) == ("T", 1, 2, 30.0)
    assert comparison.options == {"max_num_seqs": 8}
    load, alone = comparison.cases
    assert (load.trace, load.max_concurrency, alone.max_concurrency, alone.limit) == (
        tmp_path / "off.jsonl",
        None,
        1,
        3,
    )
    assert [engine.name for engine in comparison.engines_of(load)] == ["a"]
    assert [engine.name for engine in comparison.engines_of(alone)] == ["a", "b"]
    assert comparison.models["m"]["hf"] == tmp_path / "model"
    assert comparison.engines[0].script == str(tmp_path / "fake.py")


@pytest.mark.parametrize(
    ("engines", "head", "told"),
    [
        ("", "", "engines is []: there must be at least one [[engines]]"),
        ('[[engines]]\nname = "a"\n', "", "engines[a] is ['name']: the key 'kind' is missing"),
        (
            '[[engines]]\nname = "a"\nkind = "tgi"\nprecision = "f32"\n',
            "",
            "kind is 'tgi': there is no such one; there",
        ),
        ('[[engines]]\nname = "a"\nkind = "vllm"\nprecision = "f32"\n', "", "is 'vllm': this kind needs python"),
        ('[[engines]]\nname = "a"\nkind = "openai-endpoint"\nprecision = "f32"\n', "", "needs url or command"),
        (
            '[[engines]]\nname = "a"\nkind = "jaxpaged"\nprecision = "bfloat16"\n',
            "",
            "precision is 'bfloat16': there is",
        ),
        ('[[engines]]\nname = "a"\nkind = "jaxpaged"\nprecision = "f32"\nflag = ["x"]\n', "", "engines[a] is 'flag'"),
        (
            '[[engines]]\nname = "a"\nkind = "jaxpaged"\nprecision = "f32"\nflags = "x"\n',
            "",
            "it must be a list of texts",
        ),
        (
            '[[engines]]\nname = "a"\nkind = "jaxpaged"\nprecision = "f32"\ncases = ["x"]\n',
            "",
            "cases is 'x': there is no",
        ),
        (2 * '[[engines]]\nname = "a"\nkind = "jaxpaged"\nprecision = "f32"\n', "", "is 'a': it stands twice"),
        ("", "speed = 1", "there must be at least one [[engines]]"),
        (
            '[[engines]]\nname = "a"\nkind = "jaxpaged"\nprecision = "f32"\n',
            "speed = 1",
            "'speed': there is no such key",
        ),
        (
            '[[engines]]\nname = "a"\nkind = "jaxpaged"\nprecision = "f32"\n',
            "max_num_seqs = true",
            "a whole number of at",
        ),
        ("[[engines", "", "it is not TOML"),
    ],
)
def test_what_cannot_be_is_told(tmp_path: Path, engines: str, head: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        read(tmp_path, engines, head=head)


def test_a_case_of_an_unknown_model_is_told(tmp_path: Path) -> None:
    cases = '[[cases]]\nname = "load"\nmodel = "n"\ntrace = "off.jsonl"\n'
    with pytest.raises(ConfigError, match=r"cases\[load\]\.model is 'n': there is no such one; there are m"):
        read(tmp_path, fake(tmp_path, "a", "[1]"), cases=cases)


def test_engines_take_turns_and_the_order_turns_round(tmp_path: Path) -> None:
    engines = "".join(fake(tmp_path, name, "[1]") for name in "abc")
    comparison = read(tmp_path, engines, cases=TWO_CASES)
    absent = [Absence(engine="c", cases=("load",), why="not there")]
    planned = turns(comparison, absent, rounds=3)
    assert [f"{turn.round}{turn.case.name[0]}{turn.engine.name}" for turn in planned] == (
        ["0la", "0lb", "0aa", "0ab", "0ac", "1lb", "1la", "1ac", "1ab", "1aa", "2la", "2lb", "2aa", "2ab", "2ac"]
    )


def test_medians_and_errors(tmp_path: Path) -> None:
    comparison = read(tmp_path, fake(tmp_path, "a", "[1]") + fake(tmp_path, "b", "[1]"))
    rows = [row("a", 0, 10.0, peak_rss_mb=0), row("a", 1, 40.0), row("a", 2, 20.0), row("a", 3, 999.0, error="slow")]
    (result,) = results(comparison, rows)
    assert result.metrics == {"out_tok_s": Spread(values=(10, 40, 20), median=20, least=10, most=40)}
    assert result.metrics["out_tok_s"].width == 1.5
    assert result.errors == ("round 4: slow",)
    assert text_table([result]).splitlines()[1].split() == ["load", "a", "f32", "20", *"-------", "150%", "3"]


def compared(tmp_path: Path) -> Comparison:
    """Two engines of this project and one other; the kinds are set afterwards, since nothing is run."""
    named = {"f": "f32", "b": "bf16", "x": "bf16"}
    comparison = read(tmp_path, "".join(fake(tmp_path, n, "[1]", precision=p) for n, p in named.items()))
    ours = tuple(replace(e, kind="jaxpaged") if e.name != "x" else e for e in comparison.engines)
    return replace(comparison, engines=ours)


def test_ratios_are_of_pairs_of_the_same_round(tmp_path: Path) -> None:
    rows = [
        *(row("b", turn, rate, ttft_p50_ms=5.0) for turn, rate in enumerate((10.0, 30.0, 90.0))),
        *(row("x", turn, rate, ttft_p50_ms=10.0) for turn, rate in enumerate((5.0, 10.0, 20.0))),
        row("x", 3, 1.0),
        row("b", 4, 1.0, error="crashed"),
        row("x", 4, 1.0),
        row("f", 0, 4.0),
    ]
    found = {(ratio.subject.name, ratio.other.name): ratio for ratio in ratios(compared(tmp_path), rows)}
    assert set(found) == {("f", "b"), ("f", "x"), ("b", "f"), ("b", "x")}
    ahead = found["b", "x"]
    assert ahead.metrics["out_tok_s"] == Spread(values=(2.0, 3.0, 4.5), median=3.0, least=2.0, most=4.5)
    assert ahead.metrics["ttft_p50_ms"].median == 0.5
    assert "tpot_p50_ms" not in ahead.metrics
    assert (ahead.like, ahead.verdict) == (True, "ahead")
    assert (found["f", "x"].like, found["f", "x"].verdict) == (False, "one round: says little")
    told = summary([], list(found.values()))["ratios"]
    assert {(t["subject"], t["other"], t["same_precision"]) for t in told} >= {("b", "x", True), ("f", "x", False)}
    json.dumps(told)


def test_the_page_marks_what_is_unlike(tmp_path: Path) -> None:
    about = {"started_at": "now", "busy_before": 0.0, "machine": {**describe_machine(), "memory_gib": None}}
    rates = {"f": 4.0, "b": 10.0, "x": 5.0}
    rows = [row(name, turn, rate, **about) for turn in range(2) for name, rate in rates.items()]
    text = page(compared(tmp_path), rows, [], interrupted=False)
    cells = [re.findall(r"<t[hd][^>]*>([^<]*)", line) for line in re.findall(r"<tr>.*?</tr>", text)]
    like = next(line for line in cells if line[:2] == ["b", "x"])
    assert (like[2], like[3], like[-1]) == ("like for like", "2 (2 to 2)", "ahead")
    unlike = next(line for line in cells if line[:2] == ["f", "x"])
    assert (unlike[2], unlike[3], unlike[-1]) == ("UNLIKE: f32 against bf16", "0.8 (0.8 to 0.8)", "behind")
    assert "To know" not in text


@pytest.mark.parametrize(
    ("rates", "verdict"), [((1.0, 3.0), "within the spread"), ((1.0, 1.5), "behind"), ((2.5, 2.1), "ahead")]
)
def test_ahead_is_said_where_every_round_agrees(tmp_path: Path, rates: tuple[float, ...], verdict: str) -> None:
    rows = [*(row("b", turn, rate) for turn, rate in enumerate(rates)), row("x", 0, 2.0), row("x", 1, 2.0)]
    (ratio,) = (r for r in ratios(compared(tmp_path), rows) if (r.subject.name, r.other.name) == ("b", "x"))
    assert ratio.verdict == verdict


def test_rows_stay_and_errors_are_tried_again(tmp_path: Path) -> None:
    comparison = read(tmp_path, fake(tmp_path, "a", "[1]"))
    turn = [Turn(round=n, case=comparison.cases[0], engine=comparison.engines[0]) for n in range(3)]
    rows = Rows(tmp_path / "out", "text", resume=False)
    rows.add(row("a", 0, 1.0))
    rows.add(row("a", 1, 2.0, error="crashed"))
    with (tmp_path / "out" / "rows.jsonl").open("a") as file:
        file.write('{"case": "load", "eng')
    again = Rows(tmp_path / "out", "text", resume=True)
    assert [again.is_done(t) for t in turn] == [True, False, False]
    again.add(row("a", 1, 3.0))
    assert [(r["round"], r["out_tok_s"]) for r in Rows(tmp_path / "out", "text", resume=True).rows] == [(0, 1), (1, 3)]
    with pytest.raises(ConfigError, match="it holds rows of an earlier run"):
        Rows(tmp_path / "out", "text", resume=False)
    with pytest.raises(ConfigError, match="were measured with another config"):
        Rows(tmp_path / "out", "other", resume=True)


def job_of(tmp_path: Path, engine: Engine, **case: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The command of a run, and its job where there is one."""
    comparison = read(tmp_path, fake(tmp_path, "a", "[1]"), head="max_num_seqs = 8")
    models = {"m": {name: tmp_path / name for name in ("hf", "gguf", "small")}}
    job = make_job(
        replace(comparison, models=models),
        engine,
        replace(comparison.cases[0], **case),
        folder=tmp_path,
        log=tmp_path / "run.log",
    )
    assert job.environment["OMP_NUM_THREADS"] == "1"
    return job.command, json.loads((tmp_path / "job.json").read_text()) if job.row else {}


def test_what_this_engine_is_started_with(tmp_path: Path) -> None:
    engine = Engine(
        name="j", kind="jaxpaged", precision="bf16", python="/x/python", flags=("--no-warmup",), options={"seed": 3}
    )
    command, _ = job_of(tmp_path, engine, max_concurrency=1, limit=3)
    assert " ".join(command) == (
        f"/x/python -m jaxpaged_server.cli bench throughput --quiet --model {tmp_path}/hf --input {tmp_path}/off.jsonl "
        "--dtype bfloat16 --limit 3 --max-concurrency 1 --max-num-seqs 8 --seed 3 --no-warmup"
    )


def test_what_others_are_started_with(tmp_path: Path) -> None:
    engine = Engine(name="l", kind="llamacpp-server", precision="int8", server="/x/llama-server", flags=("-fa", "on"))
    command, job = job_of(tmp_path, engine)
    assert command[1].endswith("jaxpaged/bench/peers/run_http.py")
    assert job["options"]["command"][:3] == ["/x/llama-server", "-m", "{model}"]
    assert " ".join(job["options"]["command"][-13:]).startswith("-np 8 -c 16384 -ctk f16 -ctv f16")
    assert (job["model"], job["max_concurrency"], job["threads"]) == (str(tmp_path / "gguf"), None, 1)
    engine = Engine(
        name="v", kind="vllm", precision="bf16", python="/y/python", weights="small", options={"max_num_seqs": 2}
    )
    command, job = job_of(tmp_path, engine)
    assert (command[0], Path(command[1]).name, job["precision"]) == ("/y/python", "run_vllm.py", "bf16")
    assert (job["model"], job["options"]) == (str(tmp_path / "small"), {"max_num_seqs": 2})


def test_how_busy_the_machine_is(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    stat = tmp_path / "proc" / "stat"
    stat.write_text("cpu  100 0 50 800 50 0 0 0 7 0\ncpu0 1 2\n")

    def later(seconds: float) -> None:
        stat.write_text("cpu  120 0 55 860 65 0 0 0 9 0\n")  # 25 in use of 100

    assert busyness(root=tmp_path, sleep=later)["busy_before"] == 0.25
    stat.unlink()
    assert busyness(root=tmp_path, sleep=lambda s: None)["busy_before"] is None
    machine = describe_machine()
    assert machine["cores"] >= 1
    assert machine["cpu"]
