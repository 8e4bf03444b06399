"""A request, and what comes back. [host half: no jax]

Owns the types of the request's life; moves nothing by itself. The scheduler owns every `Request`.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from jaxpaged.sampling_params import SamplingParams as SamplingParams

if TYPE_CHECKING:
    from jaxpaged.constraints import Constraint
    from jaxpaged.repetition_search import RepetitionSearch

PENDING = -1
"""Stands in `Request.tokens` for a token that a step in flight draws: only the device knows it yet."""


class RequestState(Enum):
    WAITING = "waiting"  # owns no block; also after preemption
    FOLLOWING = "following"  # another request computes its prompt; owns no block, but perhaps a seat
    RUNNING = "running"
    FINISHED = "finished"


class FinishReason(Enum):
    """Why a request ended; the values are the words of OpenAI's API where it has one."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"
    REPETITION = "repetition"  # vLLM's word


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """One prompt on its way through the engine. Mutable, owned by the scheduler.

    While running: 0 <= num_computed < len(tokens), and the block table of every KV group covers num_computed
    positions, with the null block in the places that lie behind the group's window. There is no phase flag: the request
    is in prefill exactly when `num_uncomputed` > 1. What a launched step computes counts as computed, and what it draws
    as a token (`PENDING` until its commit).
    """

    id: str
    prompt: tuple[int, ...]
    params: SamplingParams
    seed: int  # resolved, 0 <= seed < 2**32
    max_tokens: int  # resolved: output tokens at most, within the longest context
    stop_ids: frozenset[int] = frozenset()  # eos (unless ignored) and stop_token_ids
    constraints: tuple[Constraint, ...] = ()  # what its next token may be; its own
    arrival_s: float = 0.0  # this and the next one: seconds on the engine's clock
    admitted_s: float = 0.0  # first admission, where there was one
    salt: str = ""  # prefix-cache namespace
    tokens: list[int] = field(default_factory=list)  # prompt + output
    seat: int = -1  # while running: its place among the rows that the device remembers
    num_computed: int = 0  # tokens whose K and V are in the pool
    num_committed: int = 0  # of these, those of committed steps; kept up where a KV group has a window
    num_cached: int = 0  # of the prompt, tokens served by the prefix cache at first admission
    num_scored: int = 0  # where prompt_logprobs are asked for: tokens whose next one is scored, in launched steps too
    prompt_logprobs: list[Mapping[int, Logprob]] = field(default_factory=list)  # committed so far, from token 1 on
    block_ids: list[array[int]] = field(default_factory=list)  # one block table (int32) per KV group
    table_starts: list[int] = field(default_factory=list)  # of each table, entries at its beginning that are null
    table_edits: int = 0  # goes up with every change of a table
    block_keys: list[bytes] = field(default_factory=list)  # chained keys of the full blocks known so far
    state: RequestState = RequestState.WAITING
    finish: FinishReason | None = None
    num_preemptions: int = 0
    held: bool = False  # what follows each of its tokens is chosen outside: see `Scheduler.choose`
    paused: bool = False  # held, and a token is drawn and known: it waits for the choice
    followers: list[Request] = field(default_factory=list)  # of the same prompt, until its first token is drawn
    leader: Request | None = None  # while following: whose followers it is among
    heir: Request | None = None  # which of its followers goes on with what it had computed when it ended
    repetition: RepetitionSearch | None = None  # of its answer, from the first token on, where it was asked for

    def __post_init__(self) -> None:
        assert self.prompt, "an empty prompt is refused before a Request is made"
        if not self.tokens:
            self.tokens = list(self.prompt)

    @property
    def last_heir(self) -> Request:
        """Who goes on with what this request had computed: itself, unless it ended and left it to a follower."""
        request = self
        while request.heir is not None:
            request = request.heir
        return request

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_output(self) -> int:
        return len(self.tokens) - len(self.prompt)

    @property
    def num_uncomputed(self) -> int:
        return len(self.tokens) - self.num_computed

    @property
    def num_to_score(self) -> int:
        """Tokens of the prompt, from the first on, whose next one has its log probability told."""
        return 0 if self.params.prompt_logprobs is None else len(self.prompt) - 1

    @property
    def num_reusable(self) -> int:
        """Tokens that the prefix cache may serve: not the last one, and none that is still to be scored."""
        if self.params.skip_reading_prefix_cache:
            return 0
        return len(self.tokens) - 1 if self.num_scored == self.num_to_score else self.num_scored

    @property
    def rests(self) -> bool:
        """Whether it has nothing to compute while it runs: it has all its tokens, or the last one is to be chosen."""
        if len(self.tokens) - len(self.prompt) >= self.max_tokens:  # `has_all_tokens`, without the call
            return True
        return self.held and (self.paused or self.tokens[-1] == PENDING)

    @property
    def has_all_tokens(self) -> bool:
        """Whether its last token is drawn, be it by a step in flight: nothing is left to compute for it."""
        return len(self.tokens) - len(self.prompt) >= self.max_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprob:
    """Log probability of one token under the model's own distribution (before temperature and penalties)."""

    logprob: float
    rank: int | None = None  # 1 is the likeliest
    decoded_token: str | None = None


PromptLogprobs = tuple[Mapping[int, Logprob] | None, ...]
"""Of each token of a prompt, its own logprob and the likeliest ones in its place; None for the first one."""


class TokenEvent(NamedTuple):
    """One token, or the end, of one request; what a step says to the world outside. Made a thousand times a second.

    `token` is None where a request ends without a new token (abort, error). `logprobs` maps token ids to their
    `Logprob` and always holds the chosen token where logprobs were asked for. `prompt_logprobs` are like
    `RequestOutput`'s, without texts, and come with the first token.
    """

    request_id: str
    token: int | None
    finish: FinishReason | None = None
    stop_reason: int | str | None = None  # the stop token id or string, None for eos
    logprobs: Mapping[int, Logprob] | None = None
    error: str | None = None
    prompt_logprobs: PromptLogprobs | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionOutput:
    """The text of one completion; field names are vLLM's."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    cumulative_logprob: float | None = None
    logprobs: tuple[Mapping[int, Logprob], ...] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestMetrics:
    """Seconds on the engine's clock."""

    arrival_s: float
    first_token_s: float | None = None
    finished_s: float | None = None
    num_preemptions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """What a request came to; field names are vLLM's.

    prompt_logprobs: where asked for, once the first token is there; a delta tells them once.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: tuple[CompletionOutput, ...]
    finished: bool
    prompt_logprobs: PromptLogprobs | None = None
    num_cached_tokens: int = 0
    metrics: RequestMetrics | None = None
    error: str | None = None
