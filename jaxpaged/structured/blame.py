"""Which part of a schema it is that no grammar can be made of. [host half: no jax]"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxpaged.errors import GrammarError
from jaxpaged.structured import keywords
from jaxpaged.structured.schema import DEFINITIONS, Normal, child

_LIMIT_S = 0.5
"""Seconds that the search may take; what was found by then is named."""

Fault = Callable[[Mapping[str, Any]], str | None]


def blamed(normal: Normal, said: str, fault: Fault, *, clock: Callable[[], float] = time.monotonic) -> GrammarError:
    """The error of a schema of which `said` is wrong: it names the smallest part of which that alone is wrong, and the
    keyword without which it is not.

    fault: what is wrong with a schema, None where nothing is.
    """
    until = clock() + _LIMIT_S
    definitions = normal.schema.get(DEFINITIONS, {})
    part, path = dict(normal.schema), "$"
    part.pop(DEFINITIONS, None)
    seen: set[str] = set()

    def wrong(schema: Mapping[str, Any]) -> bool:
        return clock() < until and fault({**schema, DEFINITIONS: definitions}) == said

    while inner := next((it for it in _parts(part, path, normal, seen) if wrong(it[0])), None):
        part, path = inner
    for keyword, value in sorted(part.items(), key=lambda item: item[0] not in said):  # one that it speaks of first
        without = {name: other for name, other in part.items() if name != keyword}
        if not wrong(without) and clock() < until:
            return GrammarError(name=child(path, keyword), value=value, limit=f"{keyword}: {said}")
    return GrammarError(name=path, value=part, limit=f"no grammar can be made of it: {said}")


def _parts(
    schema: Mapping[str, Any], path: str, normal: Normal, seen: set[str]
) -> Iterator[tuple[dict[str, Any], str]]:
    """The schemas in a schema, each with its path; a definition once."""
    for keyword, value in schema.items():
        place = child(path, keyword)
        found: list[tuple[Any, str]] = []
        if keyword == "$ref" and value not in seen:
            seen.add(value)
            name = value.rpartition("/")[2]
            found = [(normal.schema.get(DEFINITIONS, {}).get(name), normal.places.get(name, "$"))]
        elif keyword in keywords.MAPS:
            found = [(part, child(place, name)) for name, part in value.items()]
        elif isinstance(value, list) and keyword in (*keywords.LISTS, *keywords.SCHEMAS):
            found = [(part, child(place, i)) for i, part in enumerate(value)]
        elif keyword in keywords.SCHEMAS:
            found = [(value, place)]
        yield from ((part, where) for part, where in found if isinstance(part, dict))
