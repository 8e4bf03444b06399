"""Whether the queue takes more of a key. [no jax]"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxpaged_server.admission.account import Account
from jaxpaged_server.admission.drain_rate import DrainRate
from jaxpaged_server.admission.limits import AdmissionConfig
from jaxpaged_server.refusals import QueueFullError


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The queue as it is now. shared: several keys are configured, and each leaves some of it to the others."""

    config: AdmissionConfig
    drain_rate: DrainRate
    num_waiting: int
    waiting_tokens: int
    shared: bool

    def refusal(self, account: Account, prompt_tokens: Sequence[int], now: float) -> tuple[str, QueueFullError] | None:
        """Why these prompts of a key cannot wait: a word for metrics, and the error. None where they can."""
        config, old = self.config, len(account.flow.waiting)
        mine, free = old + len(prompt_tokens), config.queue_length - self.num_waiting - len(prompt_tokens)
        if free < 0 or (old and not self._is_fair(mine, free)):
            return "queue_full", self._error(account, mine, "requests", config.queue_length, now)
        if not old:
            return None  # whatever its length: see `admission.py`
        bound, tokens = config.queue_tokens(self.drain_rate.tokens_per_s(now)), sum(prompt_tokens)
        mine, free = account.waiting_tokens + tokens, bound - self.waiting_tokens - tokens
        if free < 0 or not self._is_fair(mine, free):
            return "queue_tokens", self._error(account, mine, "prompt tokens", bound, now)
        return None

    def _is_fair(self, mine: int, free: int) -> bool:
        return not self.shared or self.config.is_fair_share(mine, free)

    def _error(self, account: Account, value: int, what: str, bound: int, now: float) -> QueueFullError:
        wait_s = self.drain_rate.retry_after_s(self.num_waiting + 1, self.waiting_tokens, now)
        return QueueFullError(
            name=f"{what} of key {account.key.name!r} that would wait",
            value=value,
            limit=f"the queue takes {bound} {what} of all keys, and too few are left",
            fix=f"Try again in {wait_s} s",
            retry_after_s=wait_s,
        )
