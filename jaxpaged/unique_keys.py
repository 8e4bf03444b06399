"""JSON objects in which no key is there twice: parsers disagree on which one counts. [host half: no jax]"""

from __future__ import annotations

from typing import Any

_SHOWN = 64
"""Characters of a key that an error shows."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The `object_pairs_hook` of `json.loads`. Raises ValueError naming the first key that comes again."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen = set[str]()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:_SHOWN]!r} is there twice")
            seen.add(key)
    return found
