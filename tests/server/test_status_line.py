from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest
from beats import beat, engine_info
from jaxpaged_server.metrics.registry import ServerMetrics
from jaxpaged_server.metrics.status_line import Snapshot, report, status_line

from jaxpaged.metrics import EngineMetrics

IDLE = Snapshot(
    at_s=0.0,
    prompt_tokens=0,
    cached_tokens=0,
    generation_tokens=0,
    step_tokens=0,
    padded_tokens=0,
    preemptions=0,
    compiles=0,
    restarts=0,
    running=0,
    waiting=0,
    kv_usage=0.0,
)


def test_the_line_says_what_happened_between_two_snapshots() -> None:
    before = replace(IDLE, at_s=100.0, prompt_tokens=500, cached_tokens=100, generation_tokens=50)
    now = replace(
        before,
        at_s=110.0,
        prompt_tokens=900,
        cached_tokens=200,
        generation_tokens=175,
        step_tokens=300,
        padded_tokens=100,
        running=4,
        waiting=2,
        kv_usage=0.25,
    )
    assert status_line(before, now) == (
        "Avg prompt throughput: 30.0 tokens/s, Avg generation throughput: 12.5 tokens/s, Running: 4 reqs, "
        "Waiting: 2 reqs, KV cache usage: 25.0%, Prefix cache hit rate: 25.0%, Padding: 25.0%, Compiles: 0"
    )


def test_what_is_rare_is_said_when_it_happens() -> None:
    now = replace(IDLE, at_s=10.0, generation_tokens=10, preemptions=3, compiles=1, restarts=2)
    line = status_line(IDLE, now)
    assert line is not None
    assert line.endswith("KV cache usage: 0.0%, Preemptions: 3, Compiles: 1, Engine restarts: 2")
    assert "Prefix" not in line


def test_it_is_silent_when_idle_and_speaks_while_anything_waits() -> None:
    later = replace(IDLE, at_s=10.0)
    assert status_line(IDLE, later) is None
    assert status_line(IDLE, replace(later, running=1)) is not None
    assert status_line(IDLE, replace(later, waiting=1)) is not None
    assert status_line(later, replace(IDLE, running=1)) is None, "no time has passed"


def test_a_snapshot_is_what_the_metrics_say() -> None:
    metrics = ServerMetrics("tiny", clock=lambda: 42.0, queue=lambda: (1, 2))
    engine = EngineMetrics(prompt_tokens=9, cached_tokens=4, output_tokens=3, step_tokens=8, padded_tokens=2)
    engine.preemptions, engine.compiles_at_start, engine.compiles_after_ready = 5, 6, 7
    metrics.on_restart()
    metrics.on_beat(beat(engine), engine_info())
    assert metrics.snapshot() == Snapshot(
        at_s=42.0,
        prompt_tokens=9,
        cached_tokens=4,
        generation_tokens=3,
        step_tokens=8,
        padded_tokens=2,
        preemptions=5,
        compiles=7,
        restarts=1,
        running=2,
        waiting=6,
        kv_usage=64 / 144,
    )


async def test_it_is_logged_once_an_interval_until_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[float] = []
    slept: list[float] = []

    def snapshot() -> Snapshot:
        taken.append(0.0)
        return replace(IDLE, at_s=10.0 * len(taken), generation_tokens=100 * max(1, min(len(taken), 3)))

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) > 4:
            raise asyncio.CancelledError

    with caplog.at_level(logging.INFO), pytest.raises(asyncio.CancelledError):
        await report(snapshot, logging.getLogger("test"), interval_s=10.0, sleep=sleep)
    assert slept == [10.0] * 5
    assert [record.getMessage().split(", ")[1] for record in caplog.records] == [
        "Avg generation throughput: 10.0 tokens/s"
    ] * 2, "two intervals did something, two did not"
