"""Fields and replies that several families of routes share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from jaxpaged_server.api.structured import ResponseFormat, StructuredOutputs

MAX_CHOICES = 8
MAX_PROMPTS = 32
MAX_STOPS = 16
MAX_STOP_LENGTH = 256
MAX_STOP_IDS = 128
MAX_BIASES = 512
MAX_LOGPROBS = 20
MAX_LOGPROB_IDS = 128
MAX_ALLOWED_IDS = 2**18
MAX_BAD_WORDS = 512
MAX_SALT_LENGTH = 128
MIN_TIMEOUT_S = 1.0
"""Less is a mistake: milliseconds, or a time that no answer keeps."""
MAX_TIMEOUT_S = 86_400.0
MAX_ANSWER_SCORES = 2**20
"""Log probabilities of answers in one reply, where there are more than MAX_LOGPROBS a token."""
MAX_PROMPT_SCORES = 2**19
"""Log probabilities of prompts in one reply: 32 prompts of 8,192 tokens with one alternative each."""

Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
StopText = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_LENGTH)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
BadWord = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_LENGTH)]
TokenIdText = Annotated[str, Meta(pattern=r"^[0-9]{1,10}$")]
Salt = Annotated[str, Meta(min_length=1, max_length=MAX_SALT_LENGTH, pattern=r"^[\x21-\x7e]+$")]
RequestId = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$")]


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a stream tells beside the text. include_usage: a last event with the usage; continuous_usage_stats: the
    usage in every event. include_obfuscation is accepted: nothing is added to events here."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class RepetitionDetection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When an answer is ended because it repeats itself: a pattern of so many tokens, so often in a row."""

    max_pattern_size: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    min_pattern_size: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    min_count: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


class SamplingFields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What completions and chat have in common; names, defaults and meanings are OpenAI's and vLLM's."""

    model: Annotated[str, Meta(max_length=512)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    """Answers that are computed, of which the n likeliest are told."""
    use_beam_search: bool | None = None
    """The n choices are what a search of n beams finds."""
    length_penalty: Annotated[float, Meta(ge=-10.0, le=10.0)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=100.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=MAX_STOP_IDS)] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100.0)] | None = None
    logit_bias: (
        Annotated[dict[TokenIdText, Annotated[float, Meta(ge=-100.0, le=100.0)]], Meta(max_length=MAX_BIASES)] | None
    ) = None
    prompt_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    logprob_token_ids: Annotated[list[TokenId], Meta(min_length=1, max_length=MAX_LOGPROB_IDS)] | None = None
    allowed_token_ids: Annotated[list[TokenId], Meta(min_length=1, max_length=MAX_ALLOWED_IDS)] | None = None
    bad_words: Annotated[list[BadWord], Meta(max_length=MAX_BAD_WORDS)] | None = None
    repetition_detection: RepetitionDetection | None = None
    thinking_token_budget: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    """Longest prompt: what is over is cut off; -1: as long as leaves room for the answer."""
    truncation_side: Literal["left", "right"] | None = None
    """Where it is cut; left, the beginning, by default."""
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    stream_interval: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """Tokens that a stream gathers before it sends them, where that is more than the server's own number."""
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = None
    cache_salt: Salt | None = None
    request_id: RequestId | None = None
    timeout: Annotated[float, Meta(ge=MIN_TIMEOUT_S, le=MAX_TIMEOUT_S)] | None = None
    """Seconds until the request is ended, waiting included, as in the header X-Request-Timeout; the server's own limit
    holds beside both."""
    user: Annotated[str, Meta(max_length=512)] | None = None
    """This and the next ones are read by nobody: they name the caller, not what is asked."""
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: Annotated[str, Meta(max_length=512)] | None = None
    prompt_cache_key: Annotated[str, Meta(max_length=512)] | None = None
    priority: Annotated[int, Meta(ge=0, le=0)] | None = None
    spaces_between_special_tokens: bool | None = None


class PromptTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    """cached_tokens: tokens of the prompt that the prefix cache served."""

    cached_tokens: int


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of a request: its prompt, its answers, both."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


def usage_of(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Usage:
    """The usage of these counts."""
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached_tokens),
    )


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's form of an error."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(msgspec.Struct, frozen=True, kw_only=True):
    """Every reply with a status of 400 and above, and the last event of a stream that failed."""

    error: ErrorBody


class PromptLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One token's log probability at a place of the prompt, in vLLM's form."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


PromptLogprobs = list[dict[str, PromptLogprob] | None]
Absent = UnsetType
ABSENT = UNSET
