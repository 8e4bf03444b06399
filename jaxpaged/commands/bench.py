"""What the `jaxpaged bench` commands share: an engine of a folder or of random weights, checks of counts, the row."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxpaged.bench.shapes import shape_config
from jaxpaged.commands.terminal import say, start_engine, table, write
from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError

if TYPE_CHECKING:
    from jaxpaged.engine import LLMEngine

OptionalShape = Annotated[str | None, tyro.conf.arg(metavar="SHAPE")]


def bench_engine(config: EngineConfig, shape: str | None, *, quiet: bool) -> LLMEngine:
    """The engine to measure: of `config.model`, or of random weights where a shape is named."""
    if shape is None:
        return start_engine(config, quiet=quiet)
    shape_config(shape)  # an unknown one is told before jax starts
    from jaxpaged.bench.random_engine import random_engine

    engine = random_engine(config, shape, progress=not quiet)
    if not quiet:
        say(table(engine.describe()))
    return engine


def require_counts(options: object, least: Mapping[str, int]) -> None:
    """Raise ConfigError for the first option of a name that is below its least value; None is let pass."""
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise ConfigError(name=flag(name), value=value, limit=f"it must be at least {low}")


def require_finite(options: object, *names: str) -> None:
    """Raise ConfigError for the first option of these that is negative, infinite or not a number."""
    for name in names:
        value = getattr(options, name)
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(name=flag(name), value=value, limit="it must be 0 or more")


def flag(name: str) -> str:
    """A field's name as it is typed on the command line."""
    return f"--{name.replace('_', '-')}"


def write_row(row: Mapping[str, Any], sentence: str, *, quiet: bool) -> None:
    """The row as one line of JSON to stdout, the sentence to stderr unless quiet."""
    if not quiet:
        say(sentence)
    write(json.dumps(row) + "\n")
