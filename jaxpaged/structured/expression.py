"""Expressions that a whole answer matches. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Iterator

import llguidance

from jaxpaged.errors import GrammarError


def expression(pattern: str, *, name: str) -> str:
    """A regular expression as a terminal in Lark's way of writing. Raises GrammarError, by this name, for one that ends
    within an escape: what stands behind it would be taken for a part of it.

    \\d and \\w are of ASCII, as in a schema's `pattern`, and as in vLLM's other libraries.
    """
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        raise GrammarError(name=name, value=pattern, limit="it ends in a backslash that has nothing behind it")
    bare = unanchored(pattern)
    return f"/{llguidance.regex_to_lark(bare, 'dw')}/" if bare else '""'


def unanchored(pattern: str) -> str:
    """The expression without the ^ and $ at the ends of its alternatives: where the whole answer is matched they say
    nothing, and what reads expressions here takes none. Those in groups stay."""
    parts, part = [], list[str]()
    depth = 0
    for piece in _pieces(pattern):
        depth += (piece == "(") - (piece == ")")
        if piece == "|" and depth == 0:
            parts.append(part)
            part = []
        else:
            part.append(piece)
    return "|".join("".join(_bare(one)) for one in [*parts, part])


def _bare(pieces: list[str]) -> list[str]:
    start = 1 if pieces[:1] == ["^"] else 0
    end = len(pieces) - 1 if len(pieces) > start and pieces[-1] == "$" else len(pieces)
    return pieces[start:end]


def _pieces(pattern: str) -> Iterator[str]:
    """Single characters, but for escapes and whole classes."""
    at = 0
    while at < len(pattern):
        end = at + 1
        if pattern[at] == "\\":
            end = at + 2
        elif pattern[at] == "[":
            end = _class_end(pattern, at)
        yield pattern[at:end]
        at = end


def _class_end(pattern: str, at: int) -> int:
    """Past the end of the class that begins here; classes may hold classes."""
    depth, first = 0, at + 1 + pattern.startswith("^", at + 1)
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 1
        elif pattern[at] == "[":
            depth += 1
        elif pattern[at] == "]" and at != first:
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return at
