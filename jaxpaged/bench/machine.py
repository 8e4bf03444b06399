"""The machine that figures come from, and how busy it is before a run. [no jax]"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxpaged.doctor.facts import read_cpu

_SAMPLE_S = 0.5


def describe_machine(*, root: Path = Path("/")) -> dict[str, Any]:
    """CPU, its features that matter, cores that this process may use, memory in GiB, system."""
    cpu = read_cpu(root)
    memory = re.search(r"^MemTotal:\s+(\d+)", _text(root / "proc/meminfo"), flags=re.MULTILINE)
    return {
        "cpu": cpu.name,
        "features": list(cpu.features),
        "cores": cpu.count,
        "memory_gib": round(int(memory.group(1)) / 2**20, 1) if memory else None,
        "system": platform.platform(),
    }


def busyness(
    *, root: Path = Path("/"), sleep: Callable[[float], None] = time.sleep, sample_s: float = _SAMPLE_S
) -> dict[str, float | None]:
    """The load average, and the share of processor time in use during the next half second; None where not known.

    The load average still remembers the run before; the share is what other processes take now.
    """
    before = _ticks(root)
    sleep(sample_s)
    after = _ticks(root)
    share = None
    if before is not None and after is not None:
        idle, total = (late - early for early, late in zip(before, after, strict=True))
        share = round(1 - idle / total, 3) if total else None
    try:
        load: float | None = round(os.getloadavg()[0], 2)
    except OSError:
        load = None
    return {"load_1m": load, "busy_before": share}


def _ticks(root: Path) -> tuple[int, int] | None:
    """Processor time so far, (idle, all of it); waiting for a disk is idle."""
    fields = re.match(r"cpu((?:\s+\d+)+)", _text(root / "proc/stat"))
    if fields is None:
        return None
    values = [int(value) for value in fields.group(1).split()][:8]  # guests are counted among users already
    return sum(values[3:5]), sum(values)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
