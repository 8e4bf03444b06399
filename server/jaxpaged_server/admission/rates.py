"""How much one key may ask for: requests and tokens a minute, requests at once. [no jax]

Times are seconds of one monotonic clock, given by the caller.
"""

from __future__ import annotations

import math

from jaxpaged_server.access.keys import KeyLimits
from jaxpaged_server.refusals import RateLimitedError

_MINUTE_S = 60.0


class TokenBucket:
    """Fills at a steady rate up to one minute's worth; may be drawn below zero for what is known only afterwards."""

    def __init__(self, per_minute: float, *, now: float) -> None:
        self._capacity = per_minute
        self._level = per_minute
        self._at = now

    def level(self, now: float) -> float:
        if now > self._at:
            self._level = min(self._capacity, self._level + (now - self._at) * self._capacity / _MINUTE_S)
            self._at = now
        return self._level

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until `amount` is there; 0 where it is. More than the bucket holds asks for a full one."""
        missing = min(amount, self._capacity) - self.level(now)
        return max(0.0, missing * _MINUTE_S / self._capacity)

    def take(self, amount: float, now: float) -> None:
        self._level = self.level(now) - amount

    def give_back(self, amount: float, now: float) -> None:
        self._level = min(self._capacity, self.level(now) + amount)

    def refit(self, per_minute: float, now: float) -> None:
        """Change the rate; what was used of the old one stays used, as the same share of the new."""
        self._level = self.level(now) * per_minute / self._capacity
        self._capacity = per_minute


class KeyRates:
    """What one key has used of its limits.

    A request and its prompt are taken when it lines up; its answer as it comes, since nobody knows how long it will be:
    it may bring the tokens' bucket below zero, and the next request then waits the longer.
    """

    def __init__(self, limits: KeyLimits, *, now: float) -> None:
        self.num_in_flight = 0  # waiting or inside
        self._limits = KeyLimits()
        self._requests: TokenBucket | None = None
        self._tokens: TokenBucket | None = None
        self.refit(limits, now)

    def refit(self, limits: KeyLimits, now: float) -> None:
        """Take on other limits, as after the key file has changed."""
        self._requests = _refitted(self._requests, limits.requests_per_minute, now)
        self._tokens = _refitted(self._tokens, limits.tokens_per_minute, now)
        self._limits = limits

    def refusal(self, name: str, requests: int, tokens: int, now: float) -> tuple[str, RateLimitedError] | None:
        """Why an HTTP request that makes so many requests cannot be taken now; None where it can.

        name: of the key. Gives a word for metrics, and the error.
        """
        limits = self._limits
        most = limits.max_concurrency
        if most is not None and self.num_in_flight + requests > most:
            wait_s = 1 if requests <= most else None  # nobody knows when one of them ends
            error = RateLimitedError(
                name=f"requests in flight of key {name!r}",
                value=self.num_in_flight + requests,
                limit=f"max_concurrency is {most}",
                fix="Wait for an answer first" if wait_s else "Ask for fewer choices or prompts at once",
                retry_after_s=wait_s,
            )
            return "concurrency", error
        for reason, bucket, amount, per_minute in (
            ("requests_per_minute", self._requests, 1, limits.requests_per_minute),
            ("tokens_per_minute", self._tokens, tokens, limits.tokens_per_minute),
        ):
            if bucket is not None and (wait_s := bucket.wait_s(amount, now)) > 0:
                used = f"{reason} is {per_minute:g}"
                error = RateLimitedError(
                    name=f"rate of key {name!r}",
                    value=amount,
                    limit=f"{used}, and it is used up",
                    fix=f"Try again in {math.ceil(wait_s)} s",
                    retry_after_s=math.ceil(wait_s),
                )
                return reason, error
        return None

    def take(self, requests: int, tokens: int, now: float) -> None:
        """Count an HTTP request in."""
        self.num_in_flight += requests
        if self._requests is not None:
            self._requests.take(1, now)
        self.charge(tokens, now)

    def charge(self, tokens: int, now: float) -> None:
        """Count tokens, wherever that brings the bucket."""
        if self._tokens is not None:
            self._tokens.take(tokens, now)

    def leave(self, unused_tokens: int, now: float, *, requests: int = 1) -> None:
        """Count requests out; a prompt that was never computed is given back."""
        assert self.num_in_flight >= requests, "a request leaves that never came"
        self.num_in_flight -= requests
        if unused_tokens and self._tokens is not None:
            self._tokens.give_back(unused_tokens, now)


def _refitted(bucket: TokenBucket | None, per_minute: float | None, now: float) -> TokenBucket | None:
    if per_minute is None:
        return None
    if bucket is None:
        return TokenBucket(per_minute, now=now)
    bucket.refit(per_minute, now)
    return bucket
