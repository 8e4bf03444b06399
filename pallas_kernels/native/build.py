"""Compiles the C++ beside this file, once for a machine and version, into the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import jax.ffi

FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-ffp-contract=fast",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wno-psabi",
)
"""Contraction is asked for by name: that all variants of a loop fuse their multiply-adds keeps their bits equal."""
_LEAST_CPU = ("avx2", "fma")
_TIMEOUT_S = 300.0


class BuildError(Exception):
    """Why there is no library, in one line for people."""


def build() -> Path:
    """The shared library, compiled if it is not in the cache yet. Raises BuildError.

    Several processes may build at once: each writes a file of its own and moves it into place whole.
    """
    flags = _cpu_flags()
    missing = [one for one in _LEAST_CPU if one not in flags]
    if platform.machine() != "x86_64" or missing:
        what = f"{platform.machine()} without {missing[0]}" if missing else platform.machine()
        raise BuildError(f"it is made for x86-64 with AVX2 and FMA, this is {what}")
    compiler = find_compiler()
    path = cache_folder() / f"{_digest(compiler, flags)}.so"
    if not path.exists():
        _compile(compiler, path)
    return path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/jaxpaged/native`, by default below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxpaged" / "native"


def find_compiler() -> list[str]:
    """`$CXX` with its options, else g++ of the PATH. Raises BuildError where there is none."""
    asked = shlex.split(os.environ.get("CXX", ""))
    command = asked or ["g++"]
    found = shutil.which(command[0])
    if found is None:
        raise BuildError(f"CXX={command[0]} is not there" if asked else "there is no g++ (apt-get install g++)")
    return [found, *command[1:]]


def sources() -> list[Path]:
    """The files that the library is made of, headers included, in a fixed order."""
    return sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".h", ".cc"))


def _digest(compiler: list[str], flags: frozenset[str]) -> str:
    try:
        told = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"{compiler[0]} does not run: {error}") from error
    parts = [told.stdout, *compiler, " ".join(FLAGS), " ".join(sorted(flags)), version("jaxlib")]
    digest = hashlib.sha256("\0".join(parts).encode())
    for path in sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:24]


def _compile(compiler: list[str], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as folder:
            made = Path(folder) / path.name
            units = [source for source in sources() if source.suffix == ".cc"]
            objects = [str(Path(folder) / f"{unit.stem}.o") for unit in units]
            common = [*compiler, *FLAGS, "-isystem", jax.ffi.include_dir()]
            commands = [[*common, "-c", str(unit), "-o", o] for unit, o in zip(units, objects, strict=True)]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(_run, commands))
            _run([*compiler, "-shared", *objects, "-o", str(made)])
            os.replace(made, path)
    except OSError as error:
        raise BuildError(f"{path.parent} cannot be written: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{compiler[0]} did not end within {_TIMEOUT_S:.0f} s") from error


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S)
    if done.returncode:
        raise BuildError(f"{command[0]} failed: {_first_error(done.stderr)}")


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "it says nothing")[:300]


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1] for line in lines if line.startswith("flags")), "").split())
