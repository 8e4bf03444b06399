"""Which engines of a comparison are there, and what to install or make for those that are not. [no jax]"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from jaxpaged.bench.comparison import Case, Comparison, Engine
from jaxpaged.bench.kinds import KINDS

_PROBE = "import importlib.util, sys; print([m for m in sys.argv[1:] if importlib.util.find_spec(m) is None])"
_PROBE_S = 60.0


def python_of(engine: Engine) -> str:
    """The Python that runs the engine's runner: its own, or this one."""
    return engine.python or sys.executable


def missing(comparison: Comparison, engine: Engine, case: Case) -> str:
    """Why the engine cannot serve the case, and what to do; "" where it can."""
    return missing_engine(engine) or missing_file(comparison, engine, case)


def missing_engine(engine: Engine) -> str:
    """Why the engine cannot run at all; "" where it can."""
    kind = KINDS[engine.kind]
    for word in ("python", "server", "script"):
        place = getattr(engine, word)
        if place and not (Path(place).is_file() if word == "script" else shutil.which(place)):
            return f"{word} {place} is not there: {kind.install}"
    if engine.command and not shutil.which(engine.command[0]):
        return f"the program {engine.command[0]} is not there: {kind.install}"
    if not kind.modules:
        return ""
    try:
        done = subprocess.run(
            [python_of(engine), "-c", _PROBE, *kind.modules],
            cwd=tempfile.gettempdir(),  # what lies here is not installed
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"python {python_of(engine)} does not run ({error}): {kind.install}"
    said = done.stdout.strip().replace("'", '"')
    if done.returncode or not said.startswith("["):
        return f"python {python_of(engine)} does not run ({done.stderr.strip()[-200:]}): {kind.install}"
    absent: list[str] = json.loads(said)
    return f"{python_of(engine)} has no {', '.join(absent)}: {kind.install}" if absent else ""


def missing_file(comparison: Comparison, engine: Engine, case: Case) -> str:
    """Why the case's model cannot be read by the engine; "" where it can."""
    kind = KINDS[engine.kind]
    place = comparison.models[case.model].get(engine.format)
    if place is None:
        if engine.url:
            return ""
        return f"[models.{case.model}] has no {engine.format!r}: {kind.make}"
    return "" if place.exists() else f"{place} is not there: {kind.make}"
