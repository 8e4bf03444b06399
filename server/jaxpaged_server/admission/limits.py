"""How many may wait and how many may be inside: the numbers of admission. [no jax]"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxpaged.errors import ConfigError

_LIGHT_SHARE = 8
"""One part in so many of the rows is kept for keys that have less than that."""


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
    """Seconds that a prompt should wait at most; without effect where max_num_queued_tokens is given."""

    def __post_init__(self) -> None:
        for name, least in (
            ("max_num_seqs", 1),
            ("max_num_batched_tokens", 1),
            ("max_model_len", 1),
            ("max_num_queued_reqs", 0),
            ("max_num_queued_tokens", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(name=name, value=value, limit=f"at least {least}")
        if not (math.isfinite(self.ttft_target_s) and self.ttft_target_s > 0):
            raise ConfigError(name="ttft_target_s", value=self.ttft_target_s, limit="above 0")

    def engine_queue(self, *, shared: bool) -> int:
        """Requests that may wait in the engine's own queue, which is first come, first served.

        Enough that no row stays empty: a row that ends is filled by the next step, but its ticket comes back, and the
        next request gets there, one or two steps later. A quarter of the rows covers all that end in two steps where
        answers have 8 tokens or more. Where keys share the engine, a newcomer stands behind these, so half as many,
        for answers of 16 tokens.
        """
        return self.light_rows if shared else max(2, self.max_num_seqs // 4)

    @property
    def common_rows(self) -> int:
        """Rows that any key may fill where several are configured: 7/8, and all but one at least."""
        return max(1, self.max_num_seqs - max(1, self.max_num_seqs // _LIGHT_SHARE))

    @property
    def light_rows(self) -> int:
        """A key with fewer rows is light, and may have one of the rest."""
        return max(1, self.max_num_seqs // _LIGHT_SHARE)

    @property
    def unstarted_tokens(self) -> int:
        """Prompt tokens that may be inside without a first token where several keys are configured.

        What one step computes: whoever comes while it runs is in the next step. More would wait in the engine, ahead
        of a newcomer. The price is a step without prompts after each one that is full of them, and it is short.
        """
        return self.max_num_batched_tokens

    @property
    def light_tokens(self) -> int:
        """A key with no more prompt tokens than these inside without a first token is light."""
        return self.unstarted_tokens // _LIGHT_SHARE

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
        """Whether a key may have so much of the queue while so much of it is left, where others are configured.

        A threshold that moves with what is left (Choudhury and Hahne 1998): one key gets half of the queue, each of n
        gets one part in n + 1, so a part as large is always left for the next.
        """
        return mine <= free
