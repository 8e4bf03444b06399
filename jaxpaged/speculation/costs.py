"""What a decode step takes, by its rows and by whether it waited for the one before it. [host half: no jax]"""

from __future__ import annotations

from typing import Protocol

import numpy as np

_MEMORY = 0.98  # how much of the evidence is left after one more step
_SOLVED_EVERY = 8  # steps
_MOST_TIMES = 4.0  # a step that takes more times what was expected was held up by something else
_WEIGHT = 4.0  # of what is held before any step was seen, in steps
_LATEST = 0.1  # weight of the latest pass of a draft model
_LEAST = 1e-9  # seconds: a coarse clock may see steps that take none, and ratios are asked for
ROW_SHARE = 0.02
"""What a further row adds, as a share of a step without rows, before any step was seen."""
WAIT_SHARE = 0.15
"""The same of waiting for the step before."""


class Costs(Protocol):
    """What steps take, as far as it is known; only ratios count."""

    def of(self, rows: int, *, waited: bool) -> float:
        """What a step is expected to take."""
        ...

    def note(self, rows: int, seconds: float, *, waited: bool) -> None:
        """Take in a step of decoding rows, from the results of the one before it to its own."""
        ...


class StepCosts:
    """Seconds of a step as a + b * rows + c * waited, fitted to the latest steps by least squares, b and c >= 0.

    Only ratios are asked for, so before the first step was seen a is 1.
    """

    def __init__(self) -> None:
        self._terms = (1.0, ROW_SHARE, WAIT_SHARE)
        # decayed sums over steps, in plain numbers since every step adds to them: of 1, rows, waited, rows**2,
        # rows * waited; and of the seconds, alone and by rows and waited
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)
        self._seconds = (0.0, 0.0, 0.0)
        self._count = 0

    def of(self, rows: int, *, waited: bool) -> float:
        """What a step is expected to take; in seconds once steps were seen."""
        base, row, wait = self._terms
        return base + row * rows + (wait if waited else 0.0)

    def note(self, rows: int, seconds: float, *, waited: bool) -> None:
        """Take in a step of decoding rows, from the results of the one before it to its own."""
        if self._count >= _SOLVED_EVERY:
            seconds = min(seconds, _MOST_TIMES * self.of(rows, waited=waited))
        one, row, wait, square, both = self._sums
        w = 1.0 if waited else 0.0
        self._sums = (
            _MEMORY * one + 1.0,
            _MEMORY * row + rows,
            _MEMORY * wait + w,
            _MEMORY * square + rows * rows,
            _MEMORY * both + rows * w,
        )
        alone, by_rows, by_wait = self._seconds
        self._seconds = _MEMORY * alone + seconds, _MEMORY * by_rows + seconds * rows, _MEMORY * by_wait + seconds * w
        self._count += 1
        if self._count % _SOLVED_EVERY == 0:
            self._solve(rows)

    def _solve(self, rows: int) -> None:
        one, of_rows, of_waits, square, both = self._sums
        products = np.array([[one, of_rows, of_waits], [of_rows, square, both], [of_waits, both, of_waits]])
        for x in ((ROW_SHARE * rows, -float(rows), 0.0), (WAIT_SHARE, 0.0, -1.0)):  # what is held without evidence
            products += _WEIGHT * np.outer(x, x)
        base, row, wait = (float(term) for term in np.linalg.solve(products, np.array(self._seconds)))
        if row < 0 or wait < 0 or base <= 0:  # noise: of the parts alone the step is known well
            mean = self._seconds[0] / one
            row, wait = max(0.0, row), max(0.0, wait)
            base = max(mean * 0.05, mean - row * of_rows / one - wait * of_waits / one)
        self._terms = max(base, _LEAST), row, wait


class DraftCosts:
    """What one pass of a draft model takes, by its rows, in the units of `steps`.

    share: of a step of the model that is served, before any pass was seen.
    """

    def __init__(self, steps: Costs, *, share: float) -> None:
        self._steps = steps
        self._share = share
        self._base = 0.0  # seconds of a pass without rows; 0: none was seen
        self._num_seen = 0
        self._token = 0.0  # seconds of a token of a prompt; 0: none was seen
        self._prompts_seen = 0

    @property
    def known(self) -> bool:
        """Whether a pass was seen."""
        return self._base > 0

    def of_tokens(self, tokens: int) -> float:
        """What taking in so many tokens of a prompt is expected to take; nothing before any was seen."""
        return tokens * self._token

    def note_tokens(self, tokens: int, seconds: float) -> None:
        """Take in a pass that took in prompts; the first one tells nothing, either."""
        self._prompts_seen += 1
        if self._prompts_seen > 1:
            one = seconds / tokens
            self._token += _LATEST * (min(one, _MOST_TIMES * self._token) - self._token) if self._token else one

    def of(self, rows: int) -> float:
        """What a pass is expected to take."""
        if not self._base:
            return self._share * self._steps.of(rows, waited=False)
        return self._base * (1 + ROW_SHARE * rows)

    def note(self, rows: int, seconds: float) -> None:
        """Take in a pass; the first one may have had to compile its program, and tells nothing."""
        self._num_seen += 1
        if self._num_seen == 1:
            return
        base = max(_LEAST, seconds / (1 + ROW_SHARE * rows))
        self._base = self._base + _LATEST * (min(base, _MOST_TIMES * self._base) - self._base) if self._base else base
