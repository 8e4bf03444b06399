"""What an engine counts, as plain numbers. [host half: no jax, no HTTP]"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxpaged.ledger import KVLedger
from jaxpaged.plan import StepPlan
from jaxpaged.request import TokenEvent
from jaxpaged.roofline import StepWork

if TYPE_CHECKING:
    from jaxpaged.scheduler import Scheduler


@dataclass(slots=True, kw_only=True)
class EngineMetrics:
    """Totals since the engine began. Tokens are tokens, slots are token places in the KV pool, times are seconds."""

    steps: int = 0
    step_rows: int = 0  # requests that a step computed tokens for, summed over steps
    step_tokens: int = 0  # tokens computed for requests
    padded_tokens: int = 0  # tokens computed for nobody, to fill a bucket
    prompt_tokens: int = 0  # of finished and running requests, once each
    cached_tokens: int = 0  # of the prompts, served by the prefix cache
    output_tokens: int = 0
    finished: int = 0
    preemptions: int = 0
    drafts: int = 0  # steps of a request in which guesses were verified, over requests and steps
    draft_tokens: int = 0  # guesses in them
    accepted_tokens: int = 0  # guesses that came true, a token each
    compiles_at_start: int = 0
    compiles_after_ready: int = 0
    live_slots: int = 0  # this and the next ones: the ledger's classes, summed over steps
    behind_slots: int = 0
    shared_slots: int = 0
    tail_slots: int = 0
    cached_slots: int = 0
    free_slots: int = 0
    held_tokens: int = 0  # summed over steps: tokens of running requests, shared ones as often as they are shared
    contiguous_slots: int = 0  # summed over steps: what max-length reservations for the same requests would hold
    plan_s: float = 0.0
    draft_s: float = 0.0  # of a draft model, drawing guesses
    pack_s: float = 0.0
    execute_s: float = 0.0  # launching steps
    mask_s: float = 0.0  # making masks, while the device computes
    wait_s: float = 0.0  # for their results
    commit_s: float = 0.0
    flops: float = 0.0  # this and the next two: what the steps take at least, 0 unless the engine is asked to estimate
    read_bytes: float = 0.0  # of device memory
    written_bytes: float = 0.0

    @property
    def padding_share(self) -> float:
        """Share of the computed tokens that no request asked for."""
        return self.padded_tokens / max(1, self.padded_tokens + self.step_tokens)

    @property
    def held_slots(self) -> int:
        """Summed over steps: slots of blocks held by running requests."""
        return self.live_slots + self.behind_slots + self.shared_slots + self.tail_slots

    @property
    def kv_waste(self) -> float:
        """Share of the held slots that hold no token, over all steps."""
        return self.tail_slots / max(1, self.held_slots)

    @property
    def contiguous_waste(self) -> float:
        """The same share for an allocator that reserves the longest context for each request."""
        return 1 - self.held_tokens / max(1, self.contiguous_slots) if self.contiguous_slots else 0.0

    @property
    def waste_cut(self) -> float:
        """Share of that allocator's wasted slots that are not wasted here."""
        return 1 - self.tail_slots / max(1, self.contiguous_slots - self.held_tokens)

    def add_step(self, plan: StepPlan, events: Sequence[TokenEvent]) -> None:
        """Count a step, and what it led to."""
        computed = plan.num_tokens
        self.steps += 1
        self.step_rows += len(plan.rows) - plan.num_drafted
        self.step_tokens += computed
        self.padded_tokens += plan.bucket.tokens - computed
        self.output_tokens += sum(event.token is not None for event in events)
        self.finished += sum(event.finish is not None for event in events)

    def add_totals(self, scheduler: Scheduler) -> None:
        """Take over what the scheduler counts."""
        self.preemptions = scheduler.num_preemptions
        self.prompt_tokens = scheduler.num_prompt_tokens
        self.cached_tokens = scheduler.num_cached_tokens
        if scheduler.speculator is not None:
            counts = scheduler.speculator.counts
            self.drafts, self.draft_tokens = counts.drafts, counts.draft_tokens
            self.accepted_tokens = counts.accepted_tokens

    def add_work(self, work: StepWork) -> None:
        """Count what a step takes at least."""
        self.flops += work.flops
        self.read_bytes += work.read_bytes
        self.written_bytes += work.written_bytes

    def add_ledger(self, ledger: KVLedger) -> None:
        """Count one step's slots."""
        self.live_slots += ledger.live
        self.behind_slots += ledger.behind
        self.shared_slots += ledger.shared
        self.tail_slots += ledger.tail
        self.cached_slots += ledger.cached
        self.free_slots += ledger.free
        self.held_tokens += ledger.tokens
        self.contiguous_slots += ledger.contiguous

    def mean_slots(self) -> dict[str, float]:
        """Slots of each class of the ledger, a mean over the steps."""
        classes = ("live", "behind", "shared", "tail", "cached", "free")
        return {name: round(getattr(self, f"{name}_slots") / max(1, self.steps), 1) for name in classes}
