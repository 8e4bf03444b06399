"""How likely a guessed token is the one that is drawn, as far as earlier guesses tell. [host half: no jax]"""

from __future__ import annotations

_FIRST = (0.3, 0.45, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)  # rates before there is any evidence
_BOUNDS = (1, 2, 3, 4, 6, 8, 12, 16, 24)  # the longest match of each class but the last
_CLASSES = tuple(sum(match > bound for bound in _BOUNDS) for match in range(_BOUNDS[-1] + 2))
_HELD = 6  # guesses that a first rate counts for
_LEARNING = 1 / 32  # least weight of the latest guess in a rate
_MEMORY = 0.9  # of a request: how much of the evidence is left after one more guess
_PRIOR = 2.0  # guesses that a request's evidence must outweigh
_MOST_TRUST = 1.6
_LIKELIEST = 0.98


class Acceptance:
    """How often a guess came true, by the length of the match it was made from. A decayed mean over all requests."""

    def __init__(self) -> None:
        self._rates = list(_FIRST)
        self._seen = [_HELD] * len(_FIRST)

    def rate(self, match: int) -> float:
        """Of guesses from a match of so many tokens."""
        return self._rates[_CLASSES[min(match, len(_CLASSES) - 1)]]

    def note(self, match: int, *, hit: bool) -> None:
        """Take in what became of one guess."""
        place = _CLASSES[min(match, len(_CLASSES) - 1)]
        self._seen[place] += 1
        self._rates[place] += max(_LEARNING, 1 / self._seen[place]) * (hit - self._rates[place])


class Trust:
    """How much better, or worse, one request's guesses come true than those of all."""

    __slots__ = ("_expected", "_hits")

    def __init__(self) -> None:
        self._hits = self._expected = 0.0

    def note(self, expected: float, *, hit: bool) -> None:
        """Take in what became of one guess, and how likely it was held."""
        self._hits = _MEMORY * self._hits + hit
        self._expected = _MEMORY * self._expected + expected

    def likelihood(self, rate: float) -> float:
        """Of a guess of this request whose like come true at `rate`."""
        factor = (self._hits + _PRIOR) / (self._expected + _PRIOR)
        return min(_LIKELIEST, rate * min(_MOST_TRUST, factor))
