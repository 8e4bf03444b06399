"""Runs `selftest` in a child process and reads its findings: a driver that crashes takes the child with it, not us.

The child prints one JSON object a line as it goes, so whatever it found before a crash is kept. [no jax]
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

LINE_MARK = '{"part": '
"""How the child's lines begin; libraries may print others."""
_ERROR_LINES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFact:
    """One of JAX's devices. memory_bytes: what JAX may take, 0 where it does not say."""

    platform: str
    kind: str
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpFact:
    """Which backend an op takes on this device, and why."""

    op: str
    backend: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningFact:
    """The user's tuning table: its file and how many entries it has, or why it cannot be used, and the fix."""

    path: str
    entries: int = 0
    error: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeFact:
    """The C++ of the CPU backend. obstacle: why it cannot be had, "" where it can; unit: what it multiplies with."""

    obstacle: str
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """An op's backend against the reference in float32: largest difference, in units of the largest value there."""

    op: str
    backend: str
    dtype: str
    error: float
    tolerance: float
    milliseconds: float

    @property
    def passed(self) -> bool:
        """Whether the error is a number within the tolerance."""
        return self.error <= self.tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """Greedy tokens of the bundled model in float32, by the chosen attention backend and by the reference."""

    backend: str
    tokens: tuple[int, ...]
    reference: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What the child found. `status`: "done", "failed" (Python error), "crashed" (signal or abort) or "late"."""

    status: Literal["done", "failed", "crashed", "late"]
    error: str = ""
    doing: str = ""
    """What the child was at when it ended before its time."""
    platform: str = ""
    """"cpu", "cuda" or "rocm"; "" where no device came up."""
    dtype: str = ""
    dtype_reason: str = ""
    devices: tuple[DeviceFact, ...] = ()
    ops: tuple[OpFact, ...] = ()
    tuning: TuningFact | None = None
    native: NativeFact | None = None
    """None on GPUs, which do not ask for it."""
    checks: tuple[Check, ...] = ()
    generation: Generation | None = None


def run_probe(*, quick: bool, timeout_s: float) -> Probe:
    """Start the child and wait for it, for so long at most. quick: devices and backends only."""
    root = str(Path(__file__).parents[2])
    paths = [root, *(path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path)]
    command = [sys.executable, "-P", "-m", "jaxpaged.doctor.selftest", *(["--quick"] if quick else [])]
    with subprocess.Popen(
        command,
        # takes little of a GPU's memory, so that a server may run beside it
        env={"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as child:
        try:
            out, log = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            out, log = child.communicate()
            return read_lines(out.splitlines(), status=None, log=f"no end after {timeout_s:.0f} s")
        except BaseException:
            child.kill()
            raise
    return read_lines(out.splitlines(), status=child.returncode, log=log)


def read_lines(lines: Sequence[str], *, status: int | None, log: str) -> Probe:
    """The child's lines, exit status (None: killed for being late) and stderr, as a Probe."""
    parts = [json.loads(line) for line in lines if line.startswith(LINE_MARK)]
    found: dict[str, list[dict[str, Any]]] = {}
    for part in parts:
        found.setdefault(part.pop("part"), []).append(part)
    devices = found.get("devices", [{}])[0]
    failed = found.get("failed", [])
    if status is None:
        ending, error = "late", log
    elif failed:
        ending, error = "failed", str(failed[0]["error"])
    elif status == 0:
        ending, error = "done", ""
    else:
        ending, error = "crashed", f"{_how(status)}: {_tail(log)}"
    generation, tuning = (found.get(part, [None])[0] for part in ("generation", "tuning"))
    return Probe(
        status=ending,
        error=error,
        doing="" if ending == "done" else found.get("doing", [{"what": "starting Python"}])[-1]["what"],
        platform=devices.get("platform", ""),
        dtype=devices.get("dtype", ""),
        dtype_reason=devices.get("dtype_reason", ""),
        devices=tuple(DeviceFact(**device) for device in devices.get("devices", ())),
        ops=tuple(OpFact(**op) for op in found.get("op", ())),
        tuning=None if tuning is None else TuningFact(**tuning),
        native=NativeFact(**found["native"][0]) if "native" in found else None,
        checks=tuple(Check(**check) for check in found.get("check", ())),
        generation=None
        if generation is None
        else Generation(
            backend=generation["backend"],
            tokens=tuple(generation["tokens"]),
            reference=tuple(generation["reference"]),
            seconds=generation["seconds"],
        ),
    )


def _how(status: int) -> str:
    if status < 0:
        try:
            return f"ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"ended by signal {-status}"
    return f"ended with status {status}"


def _tail(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    stack = next(
        (i for i, line in enumerate(lines) if line.startswith(("*** Check failure stack", "Fatal Python"))), None
    )
    return " / ".join(lines[:stack][-_ERROR_LINES:]) or "no message"
