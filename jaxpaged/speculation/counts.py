"""What became of guesses, as plain numbers. [host half: no jax]"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class SpeculationCounts:
    """Totals. drafts: times that guesses of a request were verified. accepted_at: guesses that came true, by their
    place among them."""

    accepted_at: list[int]
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
