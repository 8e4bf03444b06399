"""What a step costs the host: the figures of small steps, and what cannot be."""

from __future__ import annotations

import json

import pytest
from jaxpaged_server.cli import main

from jaxpaged.bench import host


def test_figures_of_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**9))
    monkeypatch.setattr(host.time, "perf_counter", lambda: next(ticks) * 1e-6)  # each part takes a microsecond
    row = host.measure(3, context=40, steps=20)
    assert [row[f"{part}_us"] for part in host.PARTS] == [1.0, 1.0, 1.0, 1.0]
    assert (row["rows"], row["context"], row["steps"], row["total_us"]) == (3, 40, 20, 4.0)


def test_the_command_prints_a_row_for_each_number_of_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "host", "--rows", "1", "5", "--context", "20", "--steps", "10"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["rows"] for row in rows] == [1, 5]
    assert all(0 < row["plan_us"] < row["total_us"] <= row["total_p99_us"] for row in rows)


@pytest.mark.parametrize(
    ("line", "told"),
    [("--rows 0", "--rows is 0: it must be at least 1"), ("--steps 1", "--steps is 1: it must be at least 2")],
)
def test_what_cannot_be_is_one_line(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "host", *line.split()]) == 2
    assert capsys.readouterr().err == f"error: {told}\n"
