"""Child processes that compile, one after the other: a crash ends one program, and the next child takes the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codegen.packages import stubs_of
from inherited import inherited

TIMEOUT_S = 900  # of one child
TESTS = Path(__file__).parents[1]


def compile_all(device: str, names: Sequence[str], packages: Path) -> dict[str, dict[str, Any]]:
    """What `codegen.compiling` reports of each name, or {"error": ...}."""
    return run_all([sys.executable, "-m", "codegen.compiling", device, str(packages)], names, packages)


def resources_of(chip: str, names: Sequence[str], packages: Path) -> dict[str, dict[str, Any]]:
    """What `codegen.upstream` reports of each name, or {"error": ...}."""
    return run_all([sys.executable, "-m", "codegen.upstream", chip, str(packages)], names, packages)


def run_all(command: Sequence[str], names: Sequence[str], packages: Path) -> dict[str, dict[str, Any]]:
    """Run `command NAME...` until every name has a result or is the one that a child died of."""
    environment = {
        **inherited(),  # and compile, whatever the run has compiled
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(str(path) for path in (TESTS.parent, TESTS.parent / "server", TESTS)),
        "LD_LIBRARY_PATH": str(stubs_of(packages)),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TRITON_DEFAULT_FP_FUSION": "1",  # as inside XLA; unset, Triton warns
    }
    left, results = list(names), {}
    while left:
        try:
            done = subprocess.run(
                [*command, *left], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
            output, ending = done.stdout, f"exit status {done.returncode}: {done.stderr[-2000:]}"
        except subprocess.TimeoutExpired as late:
            output, ending = (late.stdout or b"").decode(), f"no end after {TIMEOUT_S} s"
        lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        results.update({line["name"]: line for line in lines if "name" in line})
        started = [line["start"] for line in lines if "start" in line]
        if started and started[-1] not in results:
            results[started[-1]] = {"error": f"the compiling process died: {ending}"}
        elif not started or len(started) < len(left):
            results.update({name: {"error": f"nothing was compiled: {ending}"} for name in left if name not in results})
        left = [name for name in left if name not in results]
    return results
