"""What an engine counts, as plain numbers. [host half: no jax, no HTTP]"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class EngineMetrics:
    """Totals since the engine began. Tokens are tokens, slots are token places in the KV pool, times are seconds."""

    steps: int = 0
    step_tokens: int = 0  # tokens computed for requests
    padded_tokens: int = 0  # tokens computed for nobody, to fill a bucket
    prompt_tokens: int = 0  # of finished and running requests, once each
    cached_tokens: int = 0  # of the prompts, served by the prefix cache
    output_tokens: int = 0
    finished: int = 0
    preemptions: int = 0
    compiles_at_start: int = 0
    compiles_after_ready: int = 0
    held_slots: int = 0  # summed over steps: slots of blocks held by running requests
    wasted_slots: int = 0  # summed over steps: of these, slots that hold no token
    contiguous_slots: int = 0  # summed over steps: what max-length reservations for the same requests would hold
    plan_s: float = 0.0
    pack_s: float = 0.0
    execute_s: float = 0.0  # launching steps
    wait_s: float = 0.0  # for their results
    commit_s: float = 0.0

    @property
    def padding_share(self) -> float:
        """Share of the computed tokens that no request asked for."""
        return self.padded_tokens / max(1, self.padded_tokens + self.step_tokens)

    @property
    def kv_waste(self) -> float:
        """Share of the held slots that hold no token, over all steps."""
        return self.wasted_slots / max(1, self.held_slots)

    @property
    def contiguous_waste(self) -> float:
        """The same share for an allocator that reserves the longest context for each request."""
        used = self.held_slots - self.wasted_slots
        return 1 - used / max(1, self.contiguous_slots) if self.contiguous_slots else 0.0
