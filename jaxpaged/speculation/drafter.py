"""What makes guesses of one request's next tokens. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from jaxpaged.speculation.acceptance import drawn_class, matched_class


class Guess(NamedTuple):
    """tokens: guessed to come next. match: how many of the latest tokens stood before them where they were found.
    likelihoods: of each token, where a model drew them; there is no match then."""

    tokens: tuple[int, ...]
    match: int
    likelihoods: tuple[float, ...] = ()

    @property
    def is_drawn(self) -> bool:
        """Whether a model drew it."""
        return bool(self.likelihoods)

    def kind(self, place: int) -> int:
        """The class of the token at a place: see `Acceptance`."""
        return drawn_class(self.likelihoods[place]) if self.likelihoods else matched_class(self.match + place)


NO_GUESS = Guess((), 0)


class Drafter(Protocol):
    """Guesses of one request. Only guesses: whatever they are, no answer changes."""

    @property
    def num_learned(self) -> int:
        """Tokens taken in so far."""
        ...

    def learn(self, tokens: Sequence[int], end: int) -> None:
        """Take in tokens[num_learned:end]."""
        ...

    def guess(self, tokens: Sequence[int], most: int) -> Guess:
        """At most `most` tokens that may follow what was taken in."""
        ...


class NoDrafter:
    """Guesses nothing: of a request whose guesses come from elsewhere."""

    def __init__(self) -> None:
        self.num_learned = 0

    def learn(self, tokens: Sequence[int], end: int) -> None:
        del tokens
        self.num_learned = end

    def guess(self, tokens: Sequence[int], most: int) -> Guess:
        del tokens, most
        return NO_GUESS


def continuation(tokens: Sequence[int], place: int, end: int, count: int) -> tuple[int, ...]:
    """`count` tokens from `place` < end on; past `end` goes on with the guess itself, as a text that repeats does."""
    if place + count <= end:
        return tuple(tokens[place : place + count])
    period = tokens[place:end]
    return tuple(period[i % len(period)] for i in range(count))


def matched(tokens: Sequence[int], place: int, end: int, most: int) -> int:
    """How many of the tokens before `place` are those before `end`, at most `most`."""
    count = 0
    while count < min(most, place) and tokens[place - count - 1] == tokens[end - count - 1]:
        count += 1
    return count
