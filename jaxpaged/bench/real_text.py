"""Beginnings of real text for a model to go on with: code, and what is written about it. [no jax]"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Iterator, Sequence

KINDS = ("code", "docs")
_LEAST_DOCS = 400  # characters of a docstring that is long enough to go on with


def beginnings(
    texts: Sequence[str],
    kind: str,
    *,
    count: int,
    tokens: int,
    seed: int,
    encode: Callable[[str], Sequence[int]],
) -> list[tuple[int, ...]]:
    """`count` pieces of at most `tokens` tokens, each from the beginning of a line on, no two from the same place.

    texts: sources in Python. kind: one of `KINDS`; "code" is of the sources as they are, "docs" of their docstrings.
    Fewer where the texts have no more.
    """
    assert kind in KINDS
    rng = random.Random(f"{seed}:{kind}")
    bodies = list(texts) if kind == "code" else [doc for text in texts for doc in _docstrings(text)]
    places = [(number, at) for number, body in enumerate(bodies) for at in _line_starts(body)]
    rng.shuffle(places)
    found: list[tuple[int, ...]] = []
    for number, at in places:
        if len(found) == count:
            break
        piece = tuple(encode(bodies[number][at : at + 16 * tokens])[:tokens])  # no token is that long on average
        if len(piece) == tokens:
            found.append(piece)
    return found


def _docstrings(text: str) -> Iterator[str]:
    try:
        tree = ast.parse(text)
    except SyntaxError:  # another Python's
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node)
            if doc is not None and len(doc) >= _LEAST_DOCS:
                yield doc


def _line_starts(body: str) -> Iterator[int]:
    at = 0
    for line in body.splitlines(keepends=True):
        if line.strip():
            yield at
        at += len(line)
