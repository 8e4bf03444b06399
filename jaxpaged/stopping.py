"""Where a text ends: looks for stop strings in text that arrives in pieces. [host half: no jax]

Owns the text that might still turn out to be the start of a stop string, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StopStep:
    """What one piece of text led to: `text` is certain and new; `matched` is the stop string that ended it all."""

    text: str
    matched: str | None = None


class StopScanner:
    """Finds the first stop string of a text, whatever the pieces in which the text comes.

    The match that *ends* first wins; of several that end at the same character, the one given first (as in vLLM, where
    this is what single characters would lead to). Text before the match is emitted, with the stop string if
    `include_stop`; text after it is dropped. Held back is only the longest end of the text that begins a stop string,
    so each character costs O(1) amortised per stop string (Knuth, Morris and Pratt).
    """

    def __init__(self, stop: Sequence[str], *, include_stop: bool = False) -> None:
        assert all(stop), "empty stop strings are refused with the request"
        self._stop = tuple(stop)
        self._include_stop = include_stop
        self._borders = [_borders(text) for text in self._stop]
        self._begun = [0] * len(self._stop)  # per stop string, how many of its characters the text ends with
        self._held = ""
        self._matched: str | None = None

    def push(self, delta: str) -> StopStep:
        """Take the next piece of text. After a match every further piece is dropped and the match told again."""
        if self._matched is not None:
            return StopStep(text="", matched=self._matched)
        if not self._stop:
            return StopStep(text=delta)
        text = self._held + delta
        for end, character in enumerate(delta, start=len(self._held) + 1):
            matched = self._advance(character)
            if matched is not None:
                self._matched, self._held = matched, ""
                return StopStep(text=text[: end if self._include_stop else end - len(matched)], matched=matched)
        certain = len(text) - max(self._begun)
        self._held = text[certain:]
        return StopStep(text=text[:certain])

    def flush(self) -> str:
        """The text still held back: there will be no more. Empty after a match."""
        held, self._held = self._held, ""
        self._begun = [0] * len(self._stop)
        return held

    def _advance(self, character: str) -> str | None:
        """Read one character; returns the stop string that it completes."""
        matched: str | None = None
        for i, stop in enumerate(self._stop):
            begun = self._begun[i]
            while begun and stop[begun] != character:
                begun = self._borders[i][begun - 1]
            begun += stop[begun] == character
            self._begun[i] = begun
            if begun == len(stop) and matched is None:
                matched = stop
        return matched


def _borders(text: str) -> list[int]:
    """For each prefix of `text`, the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(text)
    length = 0
    for i in range(1, len(text)):
        while length and text[i] != text[length]:
            length = borders[length - 1]
        length += text[i] == text[length]
        borders[i] = length
    return borders
