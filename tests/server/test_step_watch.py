"""What beats tell of steps, by an engine of plain numbers."""

from __future__ import annotations

import pytest
from fake_engine import LEDGER
from jaxpaged_server.engine_process.beats import StepWatch
from jaxpaged_server.engine_process.wire import Beat, Frames, StepRecord, frame, front_decoder

from jaxpaged.ledger import KVLedger
from jaxpaged.metrics import EngineMetrics
from jaxpaged.residency import BlockResidency

BUSY = KVLedger(live=8, behind=0, shared=0, tail=0, cached=0, free=8, null=4, tokens=8, contiguous=64)


class Requests:
    """A scheduler of plain numbers."""

    def __init__(self) -> None:
        self.num_running = self.num_waiting = 0
        self.longest_wait_s = 0.0
        self.now = LEDGER

    def ledger(self) -> KVLedger:
        return self.now


class Counted:
    """An engine and the time."""

    def __init__(self) -> None:
        self.metrics = EngineMetrics(steps=5, step_tokens=1000)  # it has served before
        self.ledger = LEDGER
        self.scheduler = Requests()
        self.now = 50.0
        self.watch = StepWatch(self, max_step_tokens=512, clock=lambda: self.now, wall=lambda: self.now + 1e9)

    def hold(self, ledger: KVLedger, running: int, waiting: int, longest_wait_s: float) -> None:
        queue = self.scheduler
        queue.now, queue.num_running, queue.num_waiting, queue.longest_wait_s = ledger, running, waiting, longest_wait_s

    def step(self, took_s: float, *, tokens: int = 4, padding: int = 0, rows: int = 4) -> None:
        self.watch.begin()
        self.now += took_s
        self.ledger = self.scheduler.ledger()
        metrics = self.metrics
        metrics.steps += 1
        metrics.step_tokens += tokens
        metrics.padded_tokens += padding
        metrics.step_rows += rows
        metrics.wait_s += took_s
        self.watch.end()


@pytest.fixture
def engine() -> Counted:
    return Counted()


def test_a_step_is_told_once(engine: Counted) -> None:
    engine.step(0.25, tokens=5, padding=3, rows=2)
    assert engine.watch.beat().steps == [
        StepRecord(
            at=50.25 + 1e9, tokens=5, padding=3, rows=2, plan_s=0, pack_s=0, execute_s=0, wait_s=0.25, commit_s=0
        )
    ]
    assert engine.watch.beat().steps == []


def test_of_many_steps_the_last_64_are_told_and_all_are_counted(engine: Counted) -> None:
    for i in range(100):
        engine.step(0.01, tokens=i + 1)
    beat = engine.watch.beat()
    assert [record.tokens for record in beat.steps] == list(range(37, 101))
    assert beat.step_token_counts == (1, 7, 8, 16, 32, 36, *[0] * 8)


def test_a_launch_without_a_commit_is_no_step(engine: Counted) -> None:
    engine.watch.begin()
    engine.metrics.plan_s += 0.125
    engine.watch.end()
    assert engine.watch.beat().steps == []
    engine.step(0.01)
    assert engine.watch.beat().steps[0].plan_s == 0.125


def test_a_step_that_runs_has_an_age(engine: Counted) -> None:
    assert engine.watch.beat().step_age_s == 0
    engine.watch.begin()
    engine.now += 7
    assert engine.watch.beat().step_age_s == 7
    engine.watch.end()
    assert engine.watch.beat().step_age_s == 0


def test_the_longest_step_is_forgotten_after_a_thousand_others(engine: Counted) -> None:
    engine.step(3.0)
    for _ in range(511):
        engine.step(0.5)
    assert engine.watch.beat().longest_step_s == 3.0
    for _ in range(512):
        engine.step(0.5)
    assert engine.watch.beat().longest_step_s == 0.5


def test_a_full_step_is_reckoned_from_the_largest_seen(engine: Counted) -> None:
    assert engine.watch.beat().full_step_s == 0
    engine.step(0.25, tokens=3, padding=1)
    assert engine.watch.beat().full_step_s == 0.25 * 512 / 4
    for took_s in (0.5, 1.5):
        engine.step(took_s, tokens=256)
    engine.step(9.0, tokens=4)  # a small one says nothing of large ones
    assert engine.watch.beat().full_step_s == 1.0 * 512 / 256


def test_a_beat_tells_of_blocks_where_they_are_watched(engine: Counted) -> None:
    assert engine.watch.beat().residency is None
    residency = BlockResidency.every(1, clock=lambda: engine.now)
    watch = StepWatch(engine, max_step_tokens=512, residency=residency)
    residency.allocated([3])
    engine.now += 7.0
    residency.evicted(3)
    (body,) = Frames().push(frame(watch.beat()))
    told = front_decoder().decode(body)
    assert isinstance(told, Beat)
    assert told.residency == residency.counts
    assert residency.counts.lifetime.total_s == 7.0


def test_the_pool_is_told_as_the_last_step_left_it_or_as_it_rests(engine: Counted) -> None:
    engine.hold(BUSY, 1, 2, 3.0)
    assert engine.watch.beat().ledger is LEDGER, "noted between steps, not while one may run"
    engine.step(0.01)
    engine.now += 1
    beat = engine.watch.beat()
    assert (beat.ledger, beat.running, beat.waiting, beat.oldest_wait_s) == (BUSY, 1, 2, 4.0)
    engine.hold(LEDGER, 0, 0, 0.0)
    engine.watch.rest()
    beat = engine.watch.beat()
    assert (beat.ledger, beat.running, beat.waiting, beat.oldest_wait_s) == (LEDGER, 0, 0, 0.0)
