"""The user's own tuning table, which the kernels ask before the shipped ones."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from jaxpaged.errors import ConfigError
from pallas_kernels.grouped_matmul.tuning import SECTION as GROUPED_MATMUL
from pallas_kernels.ragged_attention.tuning import SECTION as RAGGED_ATTENTION
from pallas_kernels.section import Section
from pallas_kernels.tuning import DEVICE, NO_TUNING, Table, load_table
from pallas_kernels.write_kv.tuning import SECTION as WRITE_KV

SECTIONS: Mapping[str, Section] = MappingProxyType(
    {section.name: section for section in (DEVICE, RAGGED_ATTENTION, WRITE_KV, GROUPED_MATMUL)}
)
_FIX = "Mend or remove the file, or set JAXPAGED_TUNING to another"


def tuning_path() -> Path:
    """`$JAXPAGED_TUNING`, else `$XDG_CACHE_HOME/jaxpaged/tuning.json`, by default below ~/.cache."""
    if asked := os.environ.get("JAXPAGED_TUNING"):
        return Path(asked)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxpaged" / "tuning.json"


def user_tuning() -> Table:
    """The table of `tuning_path()`; empty where that names no file and nobody asked for one.

    Raises ConfigError as `read_tuning` does, also for a `$JAXPAGED_TUNING` that is no file.
    """
    path = tuning_path()
    if not path.exists() and not os.environ.get("JAXPAGED_TUNING"):
        return NO_TUNING
    return read_tuning(path)


def read_tuning(path: Path) -> Table:
    """The table of a file, every entry looked at: what kernels cannot be cut by is refused here, not when they compile.

    Raises ConfigError naming the file, and the entry (numbered from 1 within its section), its value and the limit.
    """
    try:
        table = load_table(path)
    except (OSError, ValueError) as error:
        raise ConfigError(name="tuning table", value=str(path), limit=str(error), fix=_FIX) from error
    seen: Counter[str] = Counter()
    for entry in table.entries:
        seen[entry.section] += 1
        fault = SECTIONS[entry.section].fault(dict(entry.when), dict(entry.use))
        if fault is not None:
            where = f"entry {seen[entry.section]} of {entry.section} in the tuning table {path}"
            raise ConfigError(name=f"{fault.name} of {where}", value=fault.value, limit=fault.limit, fix=_FIX)
    return table
