"""Where compiled programs are kept."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from jaxpaged.buckets import Bucket, BucketTable
from jaxpaged.warmup import EarlyStart, use_compile_cache, warm_up


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_every_engine_gets_the_folder_it_asked_for(tmp_path: Path) -> None:
    first, second = use_compile_cache(tmp_path / "a"), use_compile_cache(tmp_path / "b")
    assert first is not None
    assert second is not None
    assert (first.parent, second.parent) == (tmp_path / "a", tmp_path / "b")
    jax.jit(lambda x: x * 3 + 1)(1.0)
    assert list(second.iterdir())
    assert not list(first.iterdir())
    assert use_compile_cache(None) is None
    assert jax.config.jax_compilation_cache_dir is None  # pyright: ignore[reportAttributeAccessIssue]


def test_what_the_user_configured_stays(tmp_path: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert use_compile_cache(tmp_path / "other") == tmp_path
    assert not (tmp_path / "other").exists()


def test_a_folder_that_cannot_be_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert use_compile_cache(tmp_path / "file" / "cache") is None


class BrokenRunner:
    """Fails at the first program it is asked for, and counts."""

    def __init__(self) -> None:
        self.asked = 0

    def compile(self, bucket: Bucket) -> None:
        del bucket
        self.asked += 1
        time.sleep(0.05)
        raise RuntimeError("no such program")

    compile_sampler = compile
    compile_logprob_picker = compile
    compile_picker = compile
    compile_scorer = compile
    compile_copier = compile


def test_a_program_that_cannot_be_stops_the_others() -> None:
    runner = BrokenRunner()
    with pytest.raises(RuntimeError, match="no such program"):
        warm_up(runner, [Bucket(tokens=n, rows=1) for n in range(1, 41)], progress=False)  # pyright: ignore[reportArgumentType]
    assert runner.asked <= 6


class SlowRunner:
    """Takes a moment for each program, and remembers what it was asked for."""

    def __init__(self, broken: int | None = None) -> None:
        self.programs: list[str] = []
        self._broken = broken

    def compile(self, bucket: Bucket) -> None:
        time.sleep(0.02)
        if bucket.tokens == self._broken:
            raise RuntimeError("no such program")
        self.programs.append(f"{bucket.tokens}x{bucket.rows}")

    def compile_sampler(self, rows: int) -> None:
        self.programs.append(f"sampler-{rows}")

    def compile_logprob_picker(self, rows: int) -> None:
        self.programs.append(f"logprobs-{rows}")

    def compile_picker(self, tokens: int) -> None:
        self.programs.append(f"pick-{tokens}")

    def compile_scorer(self) -> None:
        self.programs.append("score")

    def compile_copier(self) -> None:
        self.programs.append("copy")


TABLE = BucketTable.build(max_rows=16, max_step_tokens=256, min_rows=4)


def grow(early: EarlyStart) -> list[int]:
    """Sizes of the tables as they grow, until every program is there."""
    sizes = []
    while not early.done:
        table = early.grown()
        if table is not None:
            sizes.append(len(table))
        time.sleep(0.005)
    return sizes


def test_an_early_start_begins_with_the_largest_shapes() -> None:
    runner = SlowRunner()
    early = EarlyStart(runner, TABLE, progress=False)  # pyright: ignore[reportArgumentType]
    assert {"256x16", "16x16", "sampler-16", "pick-256", "pick-16", "score", "copy"} <= set(runner.programs)
    assert not early.done
    sizes = grow(early)
    assert sizes == sorted(sizes)
    assert sizes[-1] == len(TABLE) == 6
    assert runner.programs.index("128x16") < runner.programs.index("4x4")
    assert runner.programs.count("score") == 1
    assert runner.programs.index("4x4") < runner.programs.index("pick-4")


def test_a_program_that_cannot_be_is_told_while_serving() -> None:
    early = EarlyStart(SlowRunner(broken=64), TABLE, progress=False)  # pyright: ignore[reportArgumentType]
    with pytest.raises(RuntimeError, match="no such program"):
        grow(early)


def test_the_end_of_a_process_waits_for_no_program() -> None:
    code = """
import time
from jaxpaged.buckets import BucketTable
from jaxpaged.warmup import EarlyStart
class Runner:
    def compile(self, bucket):
        time.sleep(0 if bucket.tokens in (2048, 16) else 1)
    def compile_sampler(self, rows):
        pass
    compile_picker = compile_sampler
    compile_logprob_picker = compile_sampler
    def compile_scorer(self):
        pass
    compile_copier = compile_scorer
EarlyStart(Runner(), BucketTable.build(max_rows=16, max_step_tokens=2048, min_rows=1), progress=False)
print(time.monotonic())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - float(ran.stdout) < 5, "nine programs of a second each were waited for"
