"""Who may go in, given what is inside: how the engine is kept open for a key that comes while others flood. [no jax]

With one key, everybody may as long as there are places. Where several are configured, the engine counts as tight when
one of these holds, and then only light keys may go in:

- seven eighths of the rows are taken: otherwise a newcomer waits until an answer ends
- the prompts inside that have not started fill a step: a newcomer's would come after them
- the engine says that its own queue is too long, as where the KV pool is full before the rows are

A key is light when it has less than an eighth of the rows, and of a step's prompts. So, however many keys flood, a key
with nothing inside goes in at once, unless other light keys have taken all places; and turns go by tokens in seven
eighths of the engine at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxpaged_server.admission.limits import AdmissionConfig


@dataclass(slots=True, kw_only=True)
class Load:
    """What is inside, of one key or of all."""

    inside: int = 0
    """Rows of the engine that those inside take."""
    unstarted: int = 0
    """Tickets inside that have no token yet."""
    unstarted_tokens: int = 0
    """Prompt tokens of these."""

    def enter(self, tokens: int, rows: int) -> None:
        """A ticket of so many rows with a prompt of `tokens` went in."""
        self.inside += rows
        self.unstarted += 1
        self.unstarted_tokens += tokens

    def start(self, tokens: int) -> None:
        """Its first token came."""
        self.unstarted -= 1
        self.unstarted_tokens -= tokens

    def copy(self) -> Load:
        return Load(inside=self.inside, unstarted=self.unstarted, unstarted_tokens=self.unstarted_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """shared: several keys are configured. behind: the engine's own queue is longer than `engine_queue`."""

    config: AdmissionConfig
    shared: bool
    behind: bool
    engine_queue: int
    places: int
    """Rows that those inside may take; whoever comes while one is left goes in with all of its own."""

    @classmethod
    def of(cls, config: AdmissionConfig, *, shared: bool, behind: bool = False) -> Gate:
        waiting = config.engine_queue(shared=shared)
        return cls(
            config=config, shared=shared, behind=behind, engine_queue=waiting, places=config.max_num_seqs + waiting
        )

    def is_tight(self, total: Load, tokens: int, rows: int = 1) -> bool:
        """Whether only a light key may send in a prompt of `tokens` that takes so many rows."""
        if not self.shared:
            return False
        if total.inside + rows > self.config.common_rows or (
            self.behind and total.unstarted >= max(1, self.engine_queue)
        ):
            return True
        return total.unstarted > 0 and total.unstarted_tokens + tokens > self.config.unstarted_tokens

    def is_light(self, mine: Load) -> bool:
        """Whether a key with that much inside is light."""
        return mine.inside < self.config.light_rows and mine.unstarted_tokens <= self.config.light_tokens

    def count_direct(
        self, mine: Load, total: Load, prompt_tokens: Sequence[int], *, rows: int, others_wait: bool
    ) -> int:
        """How many of these prompts of one key, of so many rows each, none of which waits, could go in now one after
        the other."""
        mine, total = mine.copy(), total.copy()
        for count, tokens in enumerate(prompt_tokens):
            light = self.is_light(mine)
            if total.inside >= self.places or (not light and (others_wait or self.is_tight(total, tokens, rows))):
                return count
            mine.enter(tokens, rows)
            total.enter(tokens, rows)
        return len(prompt_tokens)
