"""What one key has in admission. [no jax]"""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxpaged_server.access.keys import Key
from jaxpaged_server.admission.fair_queue import Flow
from jaxpaged_server.admission.gate import Load
from jaxpaged_server.admission.pace import RefusalPace
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
    load: Load = field(default_factory=Load)
    pace: RefusalPace = field(default_factory=RefusalPace)

    @classmethod
    def open(cls, key: Key, *, now: float) -> Account:
        return cls(key=key, flow=Flow(name=key.name, weight=key.weight), rates=KeyRates(key.limits, now=now))

    @property
    def is_idle(self) -> bool:
        return self.load.inside == 0 and not self.flow.waiting

    def refit(self, key: Key, now: float) -> None:
        """Take on what the key file says now; what was used stays used."""
        self.key = key
        self.flow.weight = key.weight
        self.rates.refit(key.limits, now)
