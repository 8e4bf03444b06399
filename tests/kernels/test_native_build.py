"""The native library: compiled once, and where it cannot be had, the reason is told and nothing breaks."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from native_backend import need

from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import ConfigError
from pallas_kernels.backend import Backend, choose_backend
from pallas_kernels.native import build as native_build
from pallas_kernels.native.build import BuildError, build, sources
from pallas_kernels.native.library import library


@pytest.fixture
def unknown() -> Iterator[None]:
    """Forget the library for the time of a test."""
    library.cache_clear()
    yield
    library.cache_clear()


def fake_compiler(folder: Path, script: str) -> str:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


COUNTING = """
case " $* " in *" --version "*) echo some 1.0; exit;; esac
echo >> "$0.runs"
for last; do :; done
echo made > "$last"
"""


def test_it_is_compiled_once_and_moved_into_place_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(Backend.NATIVE)
    monkeypatch.setenv("CXX", f"{fake_compiler(tmp_path, COUNTING)} -w")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with ThreadPoolExecutor(4) as pool:
        paths = {job.result() for job in [pool.submit(build) for _ in range(4)]}
    (path,) = paths
    assert path.read_text() == "made\n"
    assert [one.name for one in path.parent.iterdir()] == [path.name], "nothing is left over"
    runs = len((tmp_path / "compiler.runs").read_text())
    assert build() == path
    assert len((tmp_path / "compiler.runs").read_text()) == runs
    monkeypatch.setenv("CXX", f"{tmp_path / 'compiler'} -g")
    assert build() != path


def test_its_sources_are_all_there() -> None:
    names = {path.name for path in sources()}
    assert {"attention.cc", "attend_vector.h", "attend_amx.h", "amx.h", "vectors.h", "parallel.h"} <= names


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("[ $1 = --version ] && exit; echo x.cc:1: error: no such thing >&2; exit 1", "failed: x.cc:1: error: no such"),
        ("exit 3", "does not run"),
        (None, "CXX=/nowhere/g[+][+] is not there"),
    ],
)
def test_a_compiler_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, words: str
) -> None:
    need(Backend.NATIVE)
    monkeypatch.setenv("CXX", "/nowhere/g++" if script is None else fake_compiler(tmp_path, script))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(BuildError, match=words):
        build()


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    need(Backend.NATIVE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    with pytest.raises(BuildError, match="/proc/nowhere/jaxpaged/native cannot be written"):
        build()


def test_a_cpu_without_its_instructions_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build, "_cpu_flags", lambda: frozenset({"avx2", "sse4_2"}))
    with pytest.raises(BuildError, match="x86-64 with AVX2 and FMA"):
        build()


@pytest.mark.usefixtures("unknown")
def test_without_it_xla_serves_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    backend, why = choose_backend("cpu")
    assert backend == Backend.XLA
    assert "native cannot be had: " in why
    with pytest.raises(ConfigError, match=r"attention_backend is 'native': it cannot be had: .*Use auto"):
        LLMEngine(EngineConfig(attention_backend="native", warmup=False))
    engine = LLMEngine(EngineConfig(warmup=False, compile_cache="off", max_model_len=64, num_gpu_blocks_override=8))
    assert "native cannot be had: " in dict(engine.describe())["attention"]


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        ({"head_dim": 20}, "heads of 20: they must be multiples of 8"),
        ({"block_size": 8}, "blocks of 8 tokens: they must be multiples of 16"),
        ({"kv_dtype": "float16"}, "a pool of float16: it may hold float32, bfloat16, int8"),
    ],
)
def test_a_pool_that_it_does_not_serve(pool: dict[str, object], words: str) -> None:
    backend, why = choose_backend("cpu", **pool)  # pyright: ignore[reportArgumentType]
    assert backend == Backend.XLA
    assert words in why
    with pytest.raises(ValueError, match=words):
        choose_backend("cpu", "native", **pool)  # pyright: ignore[reportArgumentType]


def test_it_is_for_cpus() -> None:
    with pytest.raises(ValueError, match="serves CPUs, this is rocm"):
        choose_backend("rocm", "native")
