"""Whether an answer goes round in circles, as its tokens come. [host half: no jax]"""

from __future__ import annotations

import numpy as np

from jaxpaged.repetition import MAX_SPAN, RepetitionDetectionParams


class RepetitionSearch:
    """Whether one answer goes round in circles, told token by token. Mutable.

    Of each size it knows for how many tokens the answer has now been what it was so many tokens before: a pattern of
    this size has come as often as that says, so a token costs a few operations on as many numbers as there are sizes,
    some 5 us for the most.
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
