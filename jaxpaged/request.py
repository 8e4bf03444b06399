"""A request, what it asks for, and what comes back. [host half: no jax]

Owns the types of the request's life; moves nothing by itself. The scheduler owns every `Request`.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from numbers import Integral, Real
from typing import NamedTuple

from jaxpaged.errors import ParameterError

MAX_BIASES = 512
"""Entries a request may put on logits (logit_bias, stop ids under min_tokens): the width of a device array."""
MAX_LOGPROBS = 20
"""Alternatives a request may ask logprobs of, per token (as OpenAI's API)."""
MAX_ANSWERS = 128
"""Answers to a prompt that a request may ask for (n, best_of)."""
PENDING = -1
"""Stands in `Request.tokens` for a token that a step in flight draws: only the device knows it yet."""
_MAX_PENALTY = 2.0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to choose tokens and when to stop. Names, defaults and meanings are vLLM's.

    Raises ParameterError naming the field, its value and the limit.
    """

    n: int = 1
    """Answers to the prompt; they share the KV of it."""
    best_of: int | None = None
    """Answers to compute, of which the n likeliest are told, by their mean logprob; n at least (default: n)."""
    temperature: float = 1.0
    """How freely to draw; 0 is greedy."""
    top_k: int = 0
    """Draw among so many of the likeliest tokens; 0 or -1 keeps all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this probability, above 0 and at most 1."""
    min_p: float = 0.0
    """Draw among tokens with at least this share of the likeliest one's probability, from 0 to 1."""
    seed: int | None = None
    """Draws depend on seed and position alone: the same seed gives the same tokens whatever runs beside."""
    max_tokens: int | None = 16
    """Tokens of the answer at most; None goes on to the longest context."""
    min_tokens: int = 0
    """Tokens of the answer before it may stop."""
    stop: str | Sequence[str] | None = None
    """Strings that end the text."""
    stop_token_ids: Sequence[int] | None = None
    """Tokens that end the text, beside the model's own."""
    ignore_eos: bool = False
    """Go on after the model's end of text."""
    include_stop_str_in_output: bool = False
    """Keep what ended the text in the text."""
    logprobs: int | None = None
    """Alternatives to report per token (0: the chosen token only)."""
    prompt_logprobs: int | None = None
    """The same of every token of the prompt but the first (0: that token only), told with the answer's first token."""
    presence_penalty: float = 0.0
    """Taken off the logit of each token that the answer holds, from -2 to 2."""
    frequency_penalty: float = 0.0
    """Taken off a token's logit for each time that the answer holds it, from -2 to 2."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens of prompt and answer less likely, below 1 likelier."""
    logit_bias: Mapping[int, float] | None = None
    """Added to the logits of these tokens, from -100 to 100."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "stop", _strings(self.stop))
        set_field(self, "n", _integer("n", self.n, 1, MAX_ANSWERS))
        if self.best_of is not None:
            fix = f"It may not be below n={self.n}"
            set_field(self, "best_of", _integer("best_of", self.best_of, self.n, MAX_ANSWERS, fix))
        for name in ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"):
            if not isinstance(value := getattr(self, name), bool):
                raise ParameterError(name=name, value=value, limit="it must be True or False")
        if not isinstance(self.stop_token_ids, Iterable | None):
            raise ParameterError(
                name="stop_token_ids", value=self.stop_token_ids, limit="it must be a list of token ids"
            )
        set_field(self, "stop_token_ids", tuple(_integer("stop_token_ids", t, 0) for t in self.stop_token_ids or ()))
        set_field(
            self, "temperature", _number("temperature", self.temperature, 0.0, 100.0, "Use 0 for greedy decoding")
        )
        set_field(self, "top_k", max(_integer("top_k", self.top_k, -1, 2**31 - 1, "0 or -1 keeps every token"), 0))
        set_field(self, "top_p", _number("top_p", self.top_p, 0.0, 1.0, "Use 1 to keep every token", above=True))
        set_field(self, "min_p", _number("min_p", self.min_p, 0.0, 1.0, "Use 0 to keep every token"))
        if self.seed is not None:
            set_field(self, "seed", _integer("seed", self.seed, -(2**63), 2**64 - 1))
        if self.max_tokens is not None:
            fix = "Leave it out (None) to go on to the longest context"
            set_field(self, "max_tokens", _integer("max_tokens", self.max_tokens, 1, fix=fix))
        set_field(self, "min_tokens", _integer("min_tokens", self.min_tokens, 0))
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ParameterError(
                name="min_tokens", value=self.min_tokens, limit=f"it may not exceed max_tokens={self.max_tokens}"
            )
        for name in ("logprobs", "prompt_logprobs"):
            if (count := getattr(self, name)) is not None:
                set_field(self, name, _integer(name, count, 0, MAX_LOGPROBS))
        for name in ("presence_penalty", "frequency_penalty"):
            set_field(self, name, _number(name, getattr(self, name), -_MAX_PENALTY, _MAX_PENALTY))
        penalty = _number("repetition_penalty", self.repetition_penalty, 0.01, 100.0, "Use 1 for no penalty")
        set_field(self, "repetition_penalty", penalty)
        bias = {_integer("logit_bias", k, 0): _number("logit_bias", v, -100, 100) for k, v in self._bias_items()}
        set_field(self, "logit_bias", bias)
        biases = len(bias) + (len(self.stop_ids) if self.min_tokens else 0)
        if biases > MAX_BIASES:
            raise ParameterError(
                name="logit_bias and stop_token_ids",
                value=biases,
                limit=f"a request may set at most {MAX_BIASES} together",
                fix="Give fewer",
            )

    def _bias_items(self) -> list[tuple[int, float]]:
        if self.logit_bias is None:
            return []
        if not isinstance(self.logit_bias, Mapping):
            raise ParameterError(name="logit_bias", value=self.logit_bias, limit="it must map token ids to numbers")
        return list(self.logit_bias.items())

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return tuple(self.stop or ())

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return tuple(self.stop_token_ids or ())

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


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
        return len(self.tokens) - 1 if self.num_scored == self.num_to_score else self.num_scored

    @property
    def rests(self) -> bool:
        """Whether it has nothing to compute while it runs: it has all its tokens, or the last one is to be chosen."""
        return self.has_all_tokens or (self.held and (self.paused or self.tokens[-1] == PENDING))

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


def _strings(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    if not isinstance(stop, str | Sequence | None):
        raise ParameterError(name="stop", value=stop, limit="it must be a string or a list of strings")
    strings = (stop,) if isinstance(stop, str) else tuple(stop or ())
    for text in strings:
        if not isinstance(text, str) or not text:
            raise ParameterError(name="stop", value=text, limit="each stop must be a non-empty string")
    return strings


def _integer(name: str, value: object, low: int, high: int = 2**31 - 1, fix: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise ParameterError(name=name, value=value, limit=f"it must be a whole number from {low} to {high}", fix=fix)
    return int(value)


def _number(name: str, value: object, low: float, high: float, fix: str = "", *, above: bool = False) -> float:
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # a whole number that no float holds
        number = math.nan
    if not low <= number <= high or (above and number == low):
        bounds = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
        raise ParameterError(name=name, value=value, limit=f"it must be a number {bounds}", fix=fix)
    return number
