"""Guesses that cannot be wrong: tokens that alone may come by the request's own constraints. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxpaged.panics import is_failure
from jaxpaged.speculation.drafter import Drafter, Guess

_SURE = 1 << 10
"""Tokens of a match that such a guess counts as: more than any that is looked up."""


@runtime_checkable
class Forcing(Protocol):
    """A constraint that knows where it leaves one token alone."""

    def forced(self, output: Sequence[int], most: int) -> list[int]:
        """The tokens, `most` at most, that alone may come after this answer."""
        ...


class ForcedDrafter:
    """A request's drafter, and before it what is forced: a name in JSON is there in one step. prompt: its tokens."""

    def __init__(self, others: Drafter, constraint: Forcing, *, prompt: int) -> None:
        self._others = others
        self._constraint = constraint
        self._prompt = prompt

    @property
    def num_learned(self) -> int:
        return self._others.num_learned

    def learn(self, tokens: Sequence[int], end: int) -> None:
        self._others.learn(tokens, end)

    def guess(self, tokens: Sequence[int], most: int) -> Guess:
        end = self.num_learned
        found = self._forced(tokens[self._prompt : end], most) if end >= self._prompt else []
        return Guess(tuple(found), _SURE) if found else self._others.guess(tokens, most)

    def _forced(self, output: Sequence[int], most: int) -> list[int]:
        try:
            return self._constraint.forced(output, most)
        except BaseException as error:  # a guess is no place to fail: the mask of the same place ends the request alone
            if not is_failure(error):
                raise
            return []
