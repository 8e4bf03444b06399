"""The strings that mark something in a text, looked for together. [host half: no jax]"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache


class Marks:
    """Several marks; the one that begins first is found, and of those that begin together the longest. Immutable."""

    __slots__ = ("_first", "longest", "options", "pattern")

    def __init__(self, options: Iterable[str]) -> None:
        self.options = tuple(sorted(set(options), key=len, reverse=True))
        assert all(self.options), "an empty mark is everywhere"
        self.pattern = re.compile("|".join(map(re.escape, self.options)) or r"(?!)")
        self._first = frozenset(option[0] for option in self.options)
        self.longest = max(map(len, self.options), default=1)

    def begun(self, text: str, at: int) -> int:
        """Where, from `at` on, the text may end in the midst of a mark; its length where it does not."""
        for place in range(max(at, len(text) - self.longest + 1), len(text)):
            if text[place] in self._first:
                rest = text[place:]
                if any(len(option) > len(rest) and option.startswith(rest) for option in self.options):
                    return place
        return len(text)


@cache
def marks_of(options: tuple[str, ...]) -> Marks:
    """The marks, made once for each of the few formats."""
    return Marks(options)
