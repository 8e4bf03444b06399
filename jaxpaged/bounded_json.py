"""JSON from strangers' files: what Python makes of it is bounded before it is made. [host half: no jax]"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxpaged.unique_keys import unique_keys

MAX_BYTES = 2**26
"""Of a JSON file that is not told otherwise. The largest of a real model, an index of its tensors, has some 15 MB."""
MAX_PARTS = 2**21
"""Commas and opening brackets: as many as 2 million values, of which Python makes half a GiB at worst."""
_SHOWN = 200
Pairs = list[tuple[str, Any]]


def read_bounded(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a file. Raises OSError, and ValueError where there are too many or it is no file but a pipe."""
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError("it is not a file")
    if facts.st_size > max_bytes:
        raise ValueError(f"it has {facts.st_size} bytes, and at most {max_bytes} are read")
    return path.read_bytes()


def parse_json(
    data: bytes, *, max_bytes: int = MAX_BYTES, hook: Callable[[Pairs], dict[str, Any]] = unique_keys
) -> Any:
    """The value of a JSON text in UTF-8. hook: makes each object of its pairs; the default refuses a key twice.

    Raises ValueError for what is no JSON, too long, of too many parts, or too deep, saying so in a short line.
    """
    if len(data) > max_bytes:
        raise ValueError(f"it has {len(data)} bytes, and at most {max_bytes} are read")
    parts = sum(data.count(mark) for mark in (b",", b"{", b"["))
    if parts > MAX_PARTS:
        raise ValueError(f"it has {parts} commas and brackets, and at most {MAX_PARTS} are read")
    try:
        return json.loads(data.decode(), object_pairs_hook=hook)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(str(error)[:_SHOWN]) from None
