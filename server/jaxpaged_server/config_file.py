"""The file of `jaxpaged serve --config`: YAML, or JSON, with flag names as keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxpaged.errors import ConfigError
from jaxpaged_server.flag_words import Given, Lookup

MAX_BYTES = 256 * 1024


def read_config_file(path: Path, lookup: Lookup, unknown: Callable[[str], ConfigError]) -> list[Given]:
    """The flags that a file gives. Raises ConfigError for what cannot be read, a key that is no flag, a wrong value."""
    data = _load(path)
    if data is None:
        return []
    if not isinstance(data, dict):
        raise _refused(path, type(data).__name__, "it must be a mapping of flags to values", "As in port: 8000")
    given = [_given(path, str(key), value, lookup, unknown) for key, value in data.items() if value is not None]
    names = [item.form.name for item in given]
    if twice := [name for name in names if names.count(name) > 1]:
        raise _refused(path, twice[0], "it is there twice")
    return given


def _load(path: Path) -> Any:
    import yaml  # only now: start-up time

    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _refused(path, None, error.strerror or str(error)) from None
    if len(content) > MAX_BYTES:
        raise _refused(path, f"more than {MAX_BYTES} bytes", f"it may have {MAX_BYTES:,} bytes")
    try:
        return yaml.safe_load(content.decode("utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise _refused(path, None, f"it is not YAML: {getattr(error, 'problem', None) or 'damaged'}{where}") from None
    except (ValueError, RecursionError) as error:
        raise _refused(path, None, f"it is not YAML: {error}") from None


def _given(path: Path, key: str, value: Any, lookup: Lookup, unknown: Callable[[str], ConfigError]) -> Given:
    name = key.removeprefix("--").replace("_", "-")
    found = lookup(f"--{name}")
    if found is None:
        raise unknown(key)
    form, on = found
    if form.name == "config":
        raise _refused(path, key, "a file cannot name another")
    written = f"--{name}"
    if form.takes in ("switch", "flag"):
        if not isinstance(value, bool):
            raise _refused(path, f"{key}: {value!r}", "it must be true or false")
        return Given(form=form, written=written, on=on == value, source=str(path))
    return Given(form=form, written=written, values=_values(path, key, value, form.takes), source=str(path))


def _values(path: Path, key: str, value: Any, takes: str) -> tuple[str, ...]:
    if takes == "json":
        return (value if isinstance(value, str) else json.dumps(value, default=str),)
    items = value if isinstance(value, list) and takes == "values" else [value]
    if not all(isinstance(item, str | int | float) for item in items):
        raise _refused(path, f"{key}: {value!r}", "it must be a value" + (" or a list" if takes == "values" else ""))
    return tuple(str(item).lower() if isinstance(item, bool) else str(item) for item in items)


def _refused(path: Path, value: object, limit: str, fix: str = "") -> ConfigError:
    if value is None:  # it is about the file as a whole
        return ConfigError(name="--config", value=str(path), limit=limit, fix=fix)
    return ConfigError(name=f"--config {path}", value=value, limit=limit, fix=fix)
