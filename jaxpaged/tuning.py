"""The user's own tuning table, which the kernels ask before the shipped ones."""

from __future__ import annotations

import os
from pathlib import Path

from jaxpaged.errors import ConfigError
from pallas_kernels.tuning import NO_TUNING, Table, load_table


def tuning_path() -> Path:
    """`$JAXPAGED_TUNING`, else `$XDG_CACHE_HOME/jaxpaged/tuning.json`, by default below ~/.cache."""
    if asked := os.environ.get("JAXPAGED_TUNING"):
        return Path(asked)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxpaged" / "tuning.json"


def user_tuning() -> Table:
    """The table of `tuning_path()`; empty where that names no file and nobody asked for one.

    Raises ConfigError for a file that is no table, and for a `$JAXPAGED_TUNING` that is no file.
    """
    path = tuning_path()
    if not path.exists() and not os.environ.get("JAXPAGED_TUNING"):
        return NO_TUNING
    try:
        return load_table(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            name="tuning table",
            value=str(path),
            limit=str(error),
            fix="Mend or remove the file, or set JAXPAGED_TUNING to another",
        ) from error
