"""Drafters for tests, and costs that make every guess worth a row."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from jaxpaged.request import Request
from jaxpaged.speculation.config import SpeculationConfig
from jaxpaged.speculation.drafter import Drafter, Guess
from jaxpaged.speculation.speculator import Speculator


class AnyPrice:
    """Costs by which a step with guesses takes half the time of one without, however many they are."""

    def of(self, rows: int, *, waited: bool) -> float:
        return 1.0 if waited else 2.0

    def note(self, rows: int, seconds: float, *, waited: bool) -> None:
        pass


class LinearCosts:
    """base + row * rows, and more for waiting."""

    def __init__(self, base: float, row: float, wait: float) -> None:
        self.base, self.row, self.wait = base, row, wait

    def of(self, rows: int, *, waited: bool) -> float:
        return self.base + self.row * rows + self.wait * waited

    def note(self, rows: int, seconds: float, *, waited: bool) -> None:
        pass


class OracleDrafter:
    """Guesses the right token with a given likelihood, each by itself, and else any; `length` of them.

    answer: what the request will be answered, as far as it is known.
    """

    def __init__(
        self, request: Request, answer: Sequence[int], *, length: int, share: float, vocab: int, rng: random.Random
    ) -> None:
        self.num_learned = 0
        self._truth = [*request.prompt, *answer]
        self._length, self._share, self._vocab, self._rng = length, share, vocab, rng

    def learn(self, tokens: Sequence[int], end: int) -> None:
        self.num_learned = end

    def guess(self, tokens: Sequence[int], most: int) -> Guess:
        guessed = [self._token(self.num_learned + i) for i in range(self._length)]
        return Guess(tuple(guessed), match=8)

    def _token(self, place: int) -> int:
        known = place < len(self._truth)
        if known and self._rng.random() < self._share:
            return self._truth[place]
        wrong = self._rng.randrange(self._vocab)
        return (wrong + 1) % self._vocab if known and self._share == 0 and wrong == self._truth[place] else wrong


def eager_speculator(make: Callable[[Request], Drafter], *, most: int) -> Speculator:
    """One that gives every guess a row as long as there are rows."""
    config = SpeculationConfig(method="ngram", num_speculative_tokens=most)
    return Speculator(config, make=make, costs=AnyPrice())
