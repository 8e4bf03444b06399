"""Guesses by looking up the latest n-gram in the text so far (prompt lookup). [host half: no jax]"""

from __future__ import annotations

from collections.abc import Sequence

from jaxpaged.speculation.drafter import NO_GUESS, Guess, continuation, matched

_MOST_MATCHED = 32  # tokens of a match that are counted: longer ones are no better


class NgramDrafter:
    """Knows after which place each n-gram of a request stood last; O(lengths of n-grams) for a token, once.

    A guess goes on where the longest n-gram at the end stood before; of several places the latest.
    """

    def __init__(self, *, shortest: int, longest: int) -> None:
        self._lengths = range(longest, shortest - 1, -1)
        # a place by an n-gram's hash: two that share one make a bad guess at worst, and it is compared before
        self._places: tuple[dict[int, int], ...] = tuple({} for _ in self._lengths)
        self._before = [0] * len(self._lengths)  # of the latest n-grams, where they stood before; 0: nowhere
        self.num_learned = 0

    def learn(self, tokens: Sequence[int], end: int) -> None:
        before = self._before
        for place in range(self.num_learned + 1, end + 1):
            for i, length in enumerate(self._lengths):
                if place >= length:
                    key = hash(tuple(tokens[place - length : place]))
                    before[i] = self._places[i].get(key, 0)
                    self._places[i][key] = place
        self.num_learned = max(self.num_learned, end)

    def guess(self, tokens: Sequence[int], most: int) -> Guess:
        end = self.num_learned
        for length, place in zip(self._lengths, self._before, strict=True):
            if place and (match := matched(tokens, place, end, max(length, _MOST_MATCHED))) >= length:
                return Guess(continuation(tokens, place, end, most), match)
        return NO_GUESS
