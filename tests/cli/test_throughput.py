"""The measuring of a trace, with a clock that only steps move."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jaxpaged.bench.throughput import measure
from jaxpaged.bench.trace import Lengths, TraceRequest, random_trace, read_trace
from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError, PromptError


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def tick(self) -> None:
        self.now_s += 0.5


def run(engine: Any, *trace: TraceRequest, **options: Any) -> tuple[dict[str, Any], Clock]:
    clock = Clock()
    engine.on_step = clock.tick
    engine.device = SimpleNamespace(name="test", platform="cpu")
    engine.config = EngineConfig(max_num_seqs=2)
    row = measure(engine, trace, startup_s=1.0, progress={"disable": True}, clock=clock, sleep=clock.sleep, **options)
    return row, clock


def request(prompt: str, max_tokens: int, arrival_s: float = 0.0) -> TraceRequest:
    return TraceRequest(prompt_ids=tuple(map(ord, prompt)), max_tokens=max_tokens, arrival_s=arrival_s)


def test_figures_of_an_offline_run(engine: Any) -> None:
    row, clock = run(engine, request("abc", 3), request("de", 1), request("f", 2))
    # steps of 0.5 s, two rows: a+d, a+f, a+f
    assert row["mode"] == "offline"
    assert (row["requests"], row["finished"], row["short"], row["errors"]) == (3, 3, 0, 0)
    assert (row["in_tokens"], row["out_tokens"], row["total_s"], row["out_tok_s"]) == (6, 6, 1.5, 4.0)
    assert row["total_tok_s"] == 8.0
    assert row["ttft_p50_ms"] == 500.0  # 500, 500, 1000
    assert row["tpot_p50_ms"] == 500.0
    assert row["steps"] == 3
    assert clock.slept == []
    json.dumps(row)


def test_requests_are_not_taken_before_they_arrive(engine: Any) -> None:
    row, clock = run(engine, request("a", 1), request("b", 1, arrival_s=2.0))
    assert row["mode"] == "online"
    assert clock.slept == [1.5]
    assert row["total_s"] == 2.5
    assert row["ttft_p99_ms"] == 500.0


def test_waiting_for_a_place_counts_as_latency(engine: Any) -> None:
    row, _ = run(engine, request("a", 4), request("b", 4), request("c", 1, arrival_s=0.25))
    assert row["ttft_p99_ms"] > 2000  # due at 0.25 s, its token comes with the fifth step at 2.5 s


def test_one_after_the_other(engine: Any) -> None:
    row, _ = run(engine, request("a", 2), request("b", 3), request("c", 1), max_concurrency=1)
    assert engine.most_in_flight == 1
    assert (row["total_s"], row["max_concurrency"]) == (3.0, 1)
    assert row["ttft_p99_ms"] == 500.0  # waiting begins when a request is let in


def test_times_between_tokens(engine: Any) -> None:
    row, _ = run(engine, request("a", 3), request("b", 2))
    assert (row["itl_p50_ms"], row["itl_p99_ms"]) == (500.0, 500.0)
    row, _ = run(engine, request("a", 1))
    assert (row["itl_p50_ms"], row["tpot_p50_ms"]) == (None, None)


def test_errors_are_counted(engine: Any) -> None:
    row, _ = run(engine, request("bad", 2), request("a", 2))
    assert (row["errors"], row["finished"], row["short"]) == (1, 1, 1)


def test_a_request_that_cannot_be_served_is_told_first(engine: Any) -> None:
    with pytest.raises(PromptError):
        run(engine, request("a", 1), request("", 1))
    assert engine.submitted == []


def test_every_request_is_greedy_and_full_length(engine: Any) -> None:
    run(engine, request("a", 2))
    (_, params), *_ = engine.submitted
    assert (params.temperature, params.max_tokens, params.ignore_eos) == (0.0, 2, True)


def test_counters_are_of_the_pass_alone(engine: Any) -> None:
    engine.metrics.steps, engine.metrics.padded_tokens, engine.metrics.step_tokens = 10, 500, 500
    engine.metrics.compiles_at_start = 4
    row, _ = run(engine, request("a", 2))
    assert (row["steps"], row["padding_share"], row["compiles_at_start"]) == (2, 0.0, 4)


def test_a_trace_is_read_in_order_of_arrival(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    rows = [{"prompt_ids": [1, 2], "max_tokens": 3, "arrival_s": 0.5, "id": 0}, {"prompt_ids": [4], "max_tokens": 5}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    first, second = read_trace(path)
    assert first == TraceRequest(prompt_ids=(4,), max_tokens=5)
    assert second == TraceRequest(prompt_ids=(1, 2), max_tokens=3, arrival_s=0.5)
    assert len(read_trace(path, limit=1)) == 1


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt_ids": [1]}', '{"prompt_ids": "ab", "max_tokens": 1}'])
def test_a_bad_line_of_a_trace_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f'{{"prompt_ids": [1], "max_tokens": 1}}\n{line}\n')
    with pytest.raises(ConfigError, match=r"trace.jsonl, line 2"):
        read_trace(path)


def test_an_empty_trace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n")
    with pytest.raises(ConfigError, match="it holds no request"):
        read_trace(path)


def test_random_traces_are_repeatable() -> None:
    def make(rate: float, seed: int = 0) -> list[TraceRequest]:
        return random_trace(
            num_requests=4, inputs=Lengths(mean=3), outputs=Lengths(mean=2), rate=rate, vocab=50, seed=seed
        )

    assert make(0) == make(0)
    assert make(0) != make(0, seed=1)
    assert [r.prompt_ids for r in make(2.0)] == [r.prompt_ids for r in make(0)]  # the rate changes arrivals alone
    assert all(r.arrival_s == 0 for r in make(0))
    arrivals = [r.arrival_s for r in make(2.0)]
    assert arrivals == sorted(arrivals)
    assert arrivals[0] > 0
    assert all(0 <= token < 50 for r in make(0) for token in r.prompt_ids)


def test_log_normal_lengths_keep_their_mean_and_limit() -> None:
    lengths = Lengths(mean=200, sigma=0.9, most=1024).draw(32, random.Random(0))
    assert (min(lengths), max(lengths), sum(lengths)) == (19, 927, 6243)
    assert lengths != sorted(lengths)
    assert sum(Lengths(mean=150, sigma=0.7, most=512).draw(32, random.Random(0))) == 4723
    assert Lengths(mean=7).draw(3, random.Random(0)) == [7, 7, 7]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"prompt_ids": [1], "max_tokens": 1, "arrival_s": NaN}', "arrival_s is nan"),
        ('{"prompt_ids": [1], "max_tokens": 1, "arrival_s": -1}', "arrival_s is -1.0"),
        ('{"prompt_ids": [1], "max_tokens": 0}', "max_tokens is 0"),
        ('{"prompt_ids": [1.5], "max_tokens": 1}', "'float' object cannot be interpreted as an integer"),
    ],
)
def test_a_number_that_cannot_be_is_told(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(line)
    with pytest.raises(ConfigError, match=re.escape(told)):
        read_trace(path)


def test_a_trace_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b'{"prompt_ids": [1], "max_tokens": 1}\n{"x": "caf\xe9"}\n')
    with pytest.raises(ConfigError, match="it is not UTF-8"):
        read_trace(path)
