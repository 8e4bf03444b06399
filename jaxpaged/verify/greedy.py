"""Greedy answers judged token by token: what the oracle would have chosen after every prefix of prompt and answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """In answer `answer`, at `place`, `token` was taken where the oracle prefers `oracle_token`, by `gap` logits.

    tie: whether the gap is within what the tolerance lets two logits differ by together.
    """

    answer: int
    place: int
    token: int
    oracle_token: int
    gap: float
    tie: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """tokens: how many were compared; differences: in order, ties among them."""

    tokens: int
    differences: tuple[Difference, ...]

    @property
    def equal(self) -> int:
        """Tokens that are the oracle's own."""
        return self.tokens - len(self.differences)

    @property
    def ties(self) -> int:
        """Tokens that are not the oracle's own, but as near as the tolerance allows."""
        return sum(difference.tie for difference in self.differences)

    @property
    def wrong(self) -> int:
        """Tokens that are neither the oracle's nor a tie with them."""
        return len(self.differences) - self.ties


def differences_of(
    answer: int, tokens: Sequence[int], oracle: np.ndarray, *, tolerance: float
) -> tuple[Difference, ...]:
    """Where an answer is not the oracle's own. oracle: f32[n, V], its logits before each of the n tokens.

    tolerance: of a logit, relative to the row's largest by size; two of them may both be off by it.
    """
    assert len(tokens) == len(oracle), f"{len(tokens)} tokens for {len(oracle)} places"
    found = []
    for place, (token, row) in enumerate(zip(tokens, oracle, strict=True)):
        best = int(np.argmax(row))
        if best != token:
            gap = float(row[best]) - float(row[token])
            tie = gap <= 2 * tolerance * float(np.abs(row).max())
            found.append(Difference(answer=answer, place=place, token=token, oracle_token=best, gap=gap, tie=tie))
    return tuple(found)
