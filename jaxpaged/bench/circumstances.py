"""Under which circumstances an engine was measured: fields that every row of figures carries."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpaged import __version__
from jaxpaged.speculation.config import SpeculationConfig

if TYPE_CHECKING:
    from jaxpaged.engine import LLMEngine

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "tokenizers")


def circumstances(engine: LLMEngine, *, startup_s: float) -> dict[str, Any]:
    """Start-up time, memory, threads, device, settings, versions."""
    return {
        "startup_s": round(startup_s, 2),
        "peak_rss_mb": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
        ),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "device": f"{engine.device.name} ({engine.device.platform})",
        "settings": _settings(engine),
        "versions": versions(),
    }


def versions() -> dict[str, str | None]:
    """Of Python, of this package and of those that a figure may depend on."""
    found = {name: _version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "jaxpaged": __version__, **found}


def percentile_ms(seconds: Sequence[float], percent: float) -> float | None:
    """A percentile in milliseconds; None of nothing."""
    return round(float(np.percentile(seconds, percent)) * 1000, 3) if seconds else None


def digits(value: float) -> float:
    """To four significant digits: what a measured figure is worth at most."""
    return float(f"{value:.4g}")


def _settings(engine: LLMEngine) -> dict[str, Any]:
    config = engine.config
    values = {f.name: getattr(config, f.name) for f in fields(config) if f.name != "reasons"}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, SpeculationConfig):
        return value.asked()
    return str(value) if isinstance(value, Path) else value


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
