"""Answers that go round in circles: what counts as one, and whether an answer is. [host half: no jax]"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxpaged.checked_numbers import whole_number
from jaxpaged.errors import ParameterError

MAX_SPAN = 4096
"""Tokens at the end of an answer that are looked at: the longest pattern, as often as it must come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepetitionDetectionParams:
    """When an answer is ended because it repeats itself; names and meanings are vLLM's.

    Raises ParameterError naming the field, its value and the limit.
    """

    max_pattern_size: int = 0
    """Tokens of the longest pattern that is looked for; 0 looks for none."""
    min_pattern_size: int = 0
    """Tokens of the shortest one; 0 counts as 1."""
    min_count: int = 0
    """How often a pattern must come, one after the other, at least 2."""

    def __post_init__(self) -> None:
        name = "repetition_detection"
        most = whole_number(f"{name}.max_pattern_size", self.max_pattern_size, 0, MAX_SPAN // 2)
        whole_number(f"{name}.min_pattern_size", self.min_pattern_size, 0, most)
        fix = "Or set max_pattern_size to 0, which looks for nothing"
        count = whole_number(f"{name}.min_count", self.min_count, 2 if most else 0, fix=fix)
        if most * count > MAX_SPAN:
            raise ParameterError(
                name=f"{name}.max_pattern_size x min_count",
                value=most * count,
                limit=f"at most {MAX_SPAN} tokens of an answer are looked at",
                fix="Look for shorter patterns, or for fewer of them",
            )


class RepetitionSearch:
    """Whether one answer goes round in circles, told token by token. Mutable.

    Of each size it knows for how many tokens the answer has now been what it was so many tokens before: a pattern of
    this size has come as often as that says, so a token costs a few operations on as many numbers as there are sizes,
    some 10 us for the most.
    """

    def __init__(self, params: RepetitionDetectionParams) -> None:
        self._most = params.max_pattern_size
        sizes = np.arange(self._most, max(params.min_pattern_size, 1) - 1, -1, dtype=np.int32)  # as the window has them
        self._needed = sizes * (params.min_count - 1)
        self._runs = np.zeros_like(sizes)
        self._tokens = np.full(self._most + MAX_SPAN, -1, np.int32)  # the latest, behind as many that are none
        self._end = self._most

    def read(self, token: int) -> bool:
        """Take in the answer's next token. Whether a pattern of these sizes comes often enough at its end."""
        count = len(self._runs)
        if not count:
            return False
        if self._end == len(self._tokens):
            self._tokens[: self._most] = self._tokens[self._end - self._most :]
            self._end = self._most
        start = self._end - self._most
        self._runs += 1
        self._runs *= self._tokens[start : start + count] == token
        self._tokens[self._end] = token
        self._end += 1
        return bool((self._runs >= self._needed).any())
