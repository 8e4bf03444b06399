"""What a request came to, in figures: made once, when it ends."""

from __future__ import annotations

from dataclasses import dataclass

FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFigures:
    """One request of the engine: one choice of one prompt. Times are seconds, None where it did not get that far.

    A request that waited and never ran has `queue_s` alone; one that ended before its first token has no `ttft_s`,
    `prefill_s` and `decode_s`.
    """

    model: str  # the name that it was asked for by
    finish_reason: str  # of FINISH_REASONS
    prompt_tokens: int
    cached_tokens: int = 0  # of the prompt, served by the prefix cache
    generation_tokens: int = 0
    e2e_s: float  # from arrival to the end
    queue_s: float | None = None  # from arrival to the first step that computed it
    ttft_s: float | None = None  # from arrival to the first token
    prefill_s: float | None = None  # from the first step to the first token
    decode_s: float | None = None  # from the first token to the last
    n: int | None = None  # the parameter; None for all but the first of the requests that one n asked for
    max_tokens: int | None = None  # the parameter
    key: str | None = None  # name of the API key

    def __post_init__(self) -> None:
        assert self.finish_reason in FINISH_REASONS, f"finish_reason {self.finish_reason!r}"
        assert 0 <= self.cached_tokens <= self.prompt_tokens, f"{self.cached_tokens} of {self.prompt_tokens} cached"
        assert self.generation_tokens >= 0, f"{self.generation_tokens} tokens"

    @property
    def inference_s(self) -> float | None:
        """Seconds from the first step to the last token."""
        if self.prefill_s is None or self.decode_s is None:
            return self.prefill_s
        return self.prefill_s + self.decode_s

    @property
    def per_output_token_s(self) -> float | None:
        """Mean seconds from one token to the next; None below two tokens."""
        if self.decode_s is None or self.generation_tokens < 2:
            return None
        return self.decode_s / (self.generation_tokens - 1)
