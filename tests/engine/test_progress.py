"""Whoever starts an engine can be told how far it is."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.progress import Advance, progress_of


class Told:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int, str]] = []
        self.done: dict[str, int] = {}

    @contextmanager
    def track(self, phase: str, *, total: int, unit: str) -> Iterator[Advance]:
        self.phases.append((phase, total, unit))
        self.done[phase] = 0

        def advance(count: int) -> None:
            self.done[phase] += count

        yield advance


def test_a_start_tells_bytes_and_programs() -> None:
    told = Told()
    engine = LLMEngine(
        EngineConfig(
            dtype="float32", max_model_len=64, max_num_seqs=4, max_num_batched_tokens=128, num_gpu_blocks_override=8
        ),
        progress=told,
    )
    programs = len(engine.runner.programs.keys() - {"pool"})
    assert programs > len(engine.buckets)
    assert told.phases == [
        ("loading", engine.runner.model.graphdef.nbytes, "B"),
        ("compiling", programs, "program"),
    ]
    assert told.done == {phase: total for phase, total, _ in told.phases}


def test_a_bar_of_bytes_tells_its_rate(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_of(True).track("loading", total=4_000_000_000, unit="B") as advance:
        time.sleep(0.11)  # a bar is drawn ten times a second
        advance(2_000_000_000)
    drawn = capsys.readouterr().err
    assert "2.00G/4.00G" in drawn
    assert re.search(r"\d+\.\dGB/s", drawn)


@pytest.mark.parametrize(("asked", "shown"), [(True, True), (False, False)])
def test_true_is_a_bar_and_false_is_silence(asked: bool, shown: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_of(asked).track("loading", total=2_000_000, unit="B") as advance:
        advance(1_000_000)
    assert ("loading" in capsys.readouterr().err) is shown
