"""What a speculator asks of a draft model. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jaxpaged.request import Request
from jaxpaged.speculation.drafter import Guess
from jaxpaged.speculation.fills import DraftFills


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

    @property
    def seconds(self) -> float:
        """Spent in `propose` since the start."""
        ...

    @property
    def passes(self) -> int:
        """Passes over its weights since the start, without those that took in a prompt."""
        ...

    @property
    def pass_seconds(self) -> float:
        """What these took."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """Tokens that the other passes took in."""
        ...

    @property
    def prompt_seconds(self) -> float:
        """What these took."""
        ...

    def propose(self, requests: Sequence[Request], counts: Sequence[int]) -> list[Guess]:
        """Guesses of the next `counts` tokens of requests of which all tokens are known; fewer, or none, of those whose
        tokens it has not all taken in yet. Each has blocks for its tokens and the guessed ones."""
        ...

    def forget(self, request: Request) -> None:
        """Take in that a request ended."""
        ...

    def restart(self) -> None:
        """Begin anew, with a pool that nobody holds a block of."""
        ...
