"""What one key has in admission. [no jax]"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxpaged_server.access.keys import Key
from jaxpaged_server.admission.fair_queue import Flow
from jaxpaged_server.admission.limits import AdmissionConfig
from jaxpaged_server.admission.rates import KeyRates
from jaxpaged_server.admission.ticket import Ticket


@dataclass(slots=True, eq=False, kw_only=True)
class Account:
    """Kept as long as the key is configured, and until its last request has left."""

    key: Key
    flow: Flow[Ticket]
    rates: KeyRates
    waiting_tokens: int = 0
    """Prompt tokens of its requests that wait."""
    inside: int = 0
    unstarted: int = 0
    """Of those inside, how many have no token yet."""
    unstarted_tokens: int = 0
    """Prompt tokens of these."""

    @classmethod
    def open(cls, key: Key, *, now: float) -> Account:
        return cls(key=key, flow=Flow(name=key.name, weight=key.weight), rates=KeyRates(key.limits, now=now))

    @property
    def is_idle(self) -> bool:
        return self.inside == 0 and not self.flow.waiting

    def count_direct(
        self, config: AdmissionConfig, prompt_tokens: Sequence[int], *, free: int, shared: bool, behind: bool
    ) -> int:
        """How many more with these prompts, in this order, may be inside at once.

        free: places. shared: other keys are configured. behind: the engine has a long queue of its own.
        """
        inside, unstarted, unstarted_tokens = self.inside, self.unstarted, self.unstarted_tokens
        for count, tokens in enumerate(prompt_tokens):
            if count >= free:
                return count
            if shared:
                few = not behind and unstarted_tokens + tokens <= config.unstarted_tokens_per_key
                if inside >= config.places_per_key or not (few or unstarted == 0):
                    return count
            inside, unstarted, unstarted_tokens = inside + 1, unstarted + 1, unstarted_tokens + tokens
        return len(prompt_tokens)

    def count_inside(self, tokens: int) -> None:
        """One with a prompt of `tokens` went in."""
        self.waiting_tokens -= tokens
        self.inside += 1
        self.unstarted += 1
        self.unstarted_tokens += tokens

    def count_started(self, tokens: int) -> None:
        """The first token of one with a prompt of `tokens` came."""
        self.unstarted -= 1
        self.unstarted_tokens -= tokens

    def refit(self, key: Key, now: float) -> None:
        """Take on what the key file says now; what was used stays used."""
        self.key = key
        self.flow.weight = key.weight
        self.rates.refit(key.limits, now)
