"""How many may wait and how many may be inside: the numbers of admission. [no jax]"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxpaged.errors import ConfigError

_MAX_SHARE = (7, 8)
"""The most that one key may hold of the rows, and of the queue, where others are configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionConfig:
    """Sizes of the queue in front of the engine. Raises ConfigError."""

    max_num_seqs: int
    """Rows of the engine: requests that it computes at once."""
    max_num_batched_tokens: int
    """Tokens of one step."""
    max_model_len: int
    """Tokens of the longest prompt."""
    max_num_queued_reqs: int | None = None
    """Requests that may wait (default: 4 x max_num_seqs)."""
    max_num_queued_tokens: int | None = None
    """Prompt tokens that may wait (default: those computed in ttft_target_s at the measured rate, and at least four
    full steps and four of the longest prompts)."""
    ttft_target_s: float = 30.0
    """Seconds that a prompt should wait at most."""
    headroom: int | None = None
    """Requests let in beyond the rows of the engine (default: a quarter of max_num_seqs, at least 2)."""

    def __post_init__(self) -> None:
        for name, least in (
            ("max_num_seqs", 1),
            ("max_num_batched_tokens", 1),
            ("max_model_len", 1),
            ("max_num_queued_reqs", 0),
            ("max_num_queued_tokens", 0),
            ("headroom", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(name=name, value=value, limit=f"at least {least}")
        if not (math.isfinite(self.ttft_target_s) and self.ttft_target_s > 0):
            raise ConfigError(name="ttft_target_s", value=self.ttft_target_s, limit="above 0")

    @property
    def engine_queue(self) -> int:
        """Requests that may wait in the engine's own queue, which is first come, first served.

        Enough that no row stays empty: a row that ends is filled by the next step, but its ticket comes back, and the
        next request gets there, one or two steps later. A quarter covers all that end in two steps where answers have
        8 tokens or more; longer answers need less. More would only move the queue to where it is not fair.
        """
        return max(2, self.max_num_seqs // 4) if self.headroom is None else self.headroom

    @property
    def places(self) -> int:
        """Requests that may be inside at once."""
        return self.max_num_seqs + self.engine_queue

    @property
    def places_per_key(self) -> int:
        """Requests of one key that may be inside at once where others are configured.

        Counted from the rows, not from the places: then a key that comes while another floods finds a free row, and
        does not wait for an answer to end. One row is left at least, unless there is only one.
        """
        share, whole = _MAX_SHARE
        return max(1, min(self.max_num_seqs - 1, self.max_num_seqs * share // whole))

    @property
    def unstarted_tokens_per_key(self) -> int:
        """Prompt tokens of one key that may be inside without a first token, where others are configured.

        The step that runs and the next one: what else is let in waits in the engine, ahead of whoever comes later.
        """
        return 2 * self.max_num_batched_tokens

    @property
    def queue_length(self) -> int:
        return 4 * self.max_num_seqs if self.max_num_queued_reqs is None else self.max_num_queued_reqs

    def queue_tokens(self, tokens_per_s: float) -> int:
        """Prompt tokens that may wait, at this measured rate."""
        if self.max_num_queued_tokens is not None:
            return self.max_num_queued_tokens
        floor = 4 * max(self.max_num_batched_tokens, self.max_model_len)
        return max(floor, int(self.ttft_target_s * tokens_per_s))

    def is_fair_share(self, mine: int, free: int) -> bool:
        """Whether a key may have so much of the queue while so much of it is free.

        A threshold that moves with what is free (Choudhury and Hahne 1998): one key alone gets 7/8 of the queue, and
        each of n gets 7/(7n+1), so some of it is always left for one that comes later.
        """
        share, whole = _MAX_SHARE
        return mine * (whole - share) <= free * share
