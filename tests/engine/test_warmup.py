"""Where compiled programs are kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from jaxpaged.buckets import Bucket
from jaxpaged.warmup import use_compile_cache, warm_up


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


def test_a_program_that_cannot_be_stops_the_others() -> None:
    runner = BrokenRunner()
    with pytest.raises(RuntimeError, match="no such program"):
        warm_up(runner, [Bucket(tokens=n, rows=1) for n in range(1, 41)], progress=False)  # pyright: ignore[reportArgumentType]
    assert runner.asked <= 6
