"""How likely a guessed token is the one that is drawn, as far as earlier guesses tell. [host half: no jax]

Guesses alike make a class: those found in text by how much stood before them, those that a model draws by how likely
it held them.
"""

from __future__ import annotations

_MATCHED = (0.3, 0.45, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)  # rates before there is any evidence
_BOUNDS = (1, 2, 3, 4, 6, 8, 12, 16, 24)  # the longest match of each class but the last
_CLASSES = tuple(sum(match > bound for bound in _BOUNDS) for match in range(_BOUNDS[-1] + 2))
_LIKELIHOODS = 10  # classes of what a model draws, from 0 to 1
_DRAWN = tuple(0.1 + 0.85 * (i + 0.5) / _LIKELIHOODS for i in range(_LIKELIHOODS))
DRAWN = len(_MATCHED) + _LIKELIHOODS
"""The class of all that a model draws, however likely it holds it."""
_FIRST = (*_MATCHED, *_DRAWN, 0.6)
_HELD = 6  # guesses that a first rate counts for
_LEARNING = 1 / 32  # least weight of the latest guess in a rate
_MEMORY = 0.9  # of a request: how much of the evidence is left after one more guess
_PRIOR = 2.0  # guesses that a request's evidence must outweigh
_MOST_TRUST = 1.6
_LIKELIEST = 0.98


def matched_class(match: int) -> int:
    """The class of a guess from a match of so many tokens."""
    return _CLASSES[min(match, len(_CLASSES) - 1)]


def drawn_class(likelihood: float) -> int:
    """The class of a guess that a model drew, and held for so likely."""
    return len(_MATCHED) + max(0, min(_LIKELIHOODS - 1, int(likelihood * _LIKELIHOODS)))


class Acceptance:
    """How often a guess came true, by its class. A decayed mean over all requests."""

    def __init__(self) -> None:
        self._rates = list(_FIRST)
        self._seen = [_HELD] * len(_FIRST)

    def rate(self, kind: int) -> float:
        """Of guesses of a class."""
        return self._rates[kind]

    def note(self, kind: int, *, hit: bool) -> None:
        """Take in what became of one guess of a class."""
        self._seen[kind] += 1
        self._rates[kind] += max(_LEARNING, 1 / self._seen[kind]) * (hit - self._rates[kind])


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
