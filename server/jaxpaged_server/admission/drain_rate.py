"""How fast the queue moves, and when to come back to a full one. [no jax]

Times are seconds of one monotonic clock, given by the caller.
"""

from __future__ import annotations

import math

MAX_RETRY_AFTER_S = 60
WINDOW_S = 30.0


class DrainRate:
    """Requests and prompt tokens a second that leave the queue, by an exponentially decaying window.

    Time counts only while something waits: an idle server is not a slow one, but a stalled one is.
    """

    def __init__(self, *, requests_per_s: float, tokens_per_s: float, window_s: float = WINDOW_S) -> None:
        """Rates: a guess for the time before anything was seen, with the weight of one second."""
        self._window_s = window_s
        self._requests = requests_per_s
        self._tokens = tokens_per_s
        self._seconds = 1.0
        self._counted_to: float | None = None  # None while nothing waits

    def start(self, now: float) -> None:
        """Something waits from now on."""
        if self._counted_to is None:
            self._counted_to = now

    def stop(self, now: float) -> None:
        """Nothing waits from now on."""
        self._advance(now)
        self._counted_to = None

    def left(self, tokens: int, now: float) -> None:
        """A request with a prompt of so many tokens left the queue for the engine. Not counted while nothing waits."""
        if self._counted_to is not None:
            self._advance(now)
            self._requests += 1
            self._tokens += tokens

    def requests_per_s(self, now: float) -> float:
        self._advance(now)
        return self._requests / self._seconds

    def tokens_per_s(self, now: float) -> float:
        self._advance(now)
        return self._tokens / self._seconds

    def retry_after_s(self, requests: int, tokens: int, now: float) -> int:
        """Whole seconds, 1 to 60, until so many requests, and so many prompt tokens, have left."""
        rates = ((requests, self.requests_per_s(now)), (tokens, self.tokens_per_s(now)))
        wait_s = max(amount / max(rate, 1e-9) for amount, rate in rates)
        return max(1, min(MAX_RETRY_AFTER_S, math.ceil(wait_s)))

    def _advance(self, now: float) -> None:
        if self._counted_to is None or now <= self._counted_to:
            return
        kept = math.exp(-(now - self._counted_to) / self._window_s)
        self._requests *= kept
        self._tokens *= kept
        self._seconds = self._seconds * kept + self._window_s * (1 - kept)
        self._counted_to = now
