"""What a speculator asks of a draft model. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from jaxpaged.request import Request
from jaxpaged.speculation.drafter import Guess
from jaxpaged.speculation.fills import DraftFills


class Drawn(NamedTuple):
    """guesses: one of each request. seconds: what it took. passes: over the model's weights; 0 where prompts were taken
    in, so that the time is theirs. taken_in: tokens that were known, and were computed first."""

    guesses: list[Guess]
    seconds: float
    passes: int
    taken_in: int


class DraftModel(Protocol):
    """A small model of the same vocabulary, which draws guesses of several requests at once."""

    @property
    def fills(self) -> DraftFills:
        """What it has taken in."""
        ...

    @property
    def longest(self) -> int:
        """Tokens of the longest context that it can go on from, guesses included."""
        ...

    @property
    def share(self) -> float:
        """Bytes of its weights, as a share of those of the model that is served."""
        ...

    def propose(self, requests: Sequence[Request], counts: Sequence[int]) -> Drawn:
        """Guesses of the next `counts` tokens of requests of which all tokens are known; fewer, or none, of those whose
        tokens it has not all taken in yet. Each has blocks for its tokens and the guessed ones."""
        ...

    def forget(self, request: Request) -> None:
        """Take in that a request ended."""
        ...

    def restart(self) -> None:
        """Begin anew, with a pool that nobody holds a block of."""
        ...
