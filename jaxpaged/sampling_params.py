"""What a request asks for beside its prompt. [host half: no jax]"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from jaxpaged.checked_numbers import number, whole_number
from jaxpaged.errors import ParameterError
from jaxpaged.repetition import RepetitionDetectionParams
from jaxpaged.structured.params import StructuredOutputsParams

MAX_BIASES = 512
"""Entries of logit_bias that a request may have: the width of a device array."""
MAX_LOGPROBS = 20
"""Alternatives whose logprobs the sampler itself gives, per token (as many as OpenAI's API has)."""
MAX_LOGPROB_IDS = 128
"""Tokens whose logprobs a request may name (logprob_token_ids)."""
MAX_BAD_WORDS = 512
"""Words of bad_words, and sequences of tokens that they come to."""
MAX_BAD_WORD = 256
"""Characters of one of them."""
MAX_ANSWERS = 128
"""Answers to a prompt that a request may ask for (n, best_of)."""
_MAX_PENALTY = 2.0
_REFUSED: Mapping[str, tuple[Collection[Any], str, str]] = MappingProxyType(
    {  # name -> values that ask for nothing, why it is refused, what to do instead
        "logits_processors": (
            (None, [], ()),
            "no code of a request runs in the engine",
            "Use allowed_token_ids, bad_words, logit_bias, structured_outputs or the penalties",
        ),
        "extra_args": ((None, {}), "nothing here would read it", "Leave it out"),
        "flat_logprobs": ((False,), "logprobs have one form, a mapping per token", "Leave it out"),
        "prompt_logprob_token_ids": (
            (None,),
            "a prompt's logprobs are those of its likeliest tokens",
            "Use prompt_logprobs",
        ),
        "prompt_logprob_start": ((None,), "a prompt's logprobs begin with its second token", "Leave it out"),
        "output_kind": ((), "it is not a sampling parameter here", "Give it to LLMEngine.submit"),
        "stream_interval": ((None,), "every token is told as it comes", "Leave it out"),
        "routed_experts_prompt_start": ((0,), "which experts were chosen is not told", "Leave it out"),
        "trace_decode_token_ids": (
            (None,),
            "tokens are drawn, never given",
            "Use allowed_token_ids or structured_outputs",
        ),
        "guided_decoding": ((None,), "it has another name", "Use structured_outputs"),
        "use_beam_search": ((False, None), "beams are no kind of sampling", "Use LLM.beam_search"),
        "length_penalty": ((1.0,), "it belongs to beam search", "Use BeamSearchParams"),
        "early_stopping": ((False, None), "it belongs to beam search", "Use BeamSearchParams"),
        "skip_clone": ((False, True), "parameters are never changed, so none are copied", "Leave it out"),
    }
)
Params = TypeVar("Params")


def _naming_what_is_refused(kind: type[Params]) -> type[Params]:
    """The same class, which refuses vLLM's other parameters by name and with what to do instead.

    Those that ask for nothing are taken, so that code with vLLM's defaults written out runs.
    """
    made: Any = kind.__init__

    @functools.wraps(made)
    def init(self: Params, **options: Any) -> None:
        for name in [name for name in options if name in _REFUSED]:
            neutral, limit, fix = _REFUSED[name]
            value = options.pop(name)
            if not any(type(value) is type(one) and value == one for one in neutral):
                raise ParameterError(name=name, value=value, limit=limit, fix=fix)
        made(self, **options)

    kind.__init__ = init
    return kind


@_naming_what_is_refused
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
    """Alternatives to report per token (0: the chosen token only; -1: the vocabulary), within max_logprobs."""
    logprob_token_ids: Sequence[int] | None = None
    """Report the logprobs of these tokens, and of the chosen one, in place of the likeliest."""
    prompt_logprobs: int | None = None
    """The same of every token of the prompt but the first, 20 at most; told with the answer's first token."""
    presence_penalty: float = 0.0
    """Taken off the logit of each token that the answer holds, from -2 to 2."""
    frequency_penalty: float = 0.0
    """Taken off a token's logit for each time that the answer holds it, from -2 to 2."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens of prompt and answer less likely, below 1 likelier."""
    logit_bias: Mapping[int, float] | None = None
    """Added to the logits of these tokens, from -100 to 100."""
    allowed_token_ids: Sequence[int] | None = None
    """Draw among these tokens alone."""
    bad_words: Sequence[str] | None = None
    """Words that the answer may not hold: of each, the last token is barred where the ones before it came."""
    structured_outputs: StructuredOutputsParams | None = None
    """A form that the answer has: JSON of a schema, a regular expression, a grammar (an object, or its JSON)."""
    thinking_token_budget: int | None = None
    """Tokens of thinking before its end is forced; -1 or None sets no limit."""
    repetition_detection: RepetitionDetectionParams | None = None
    """End an answer that repeats itself."""
    truncate_prompt_tokens: int | None = None
    """Keep so many tokens of a longer prompt; -1: as many as leave room for max_tokens."""
    truncation_side: Literal["left", "right"] | None = None
    """Where tokens are taken off: left (the default) keeps the prompt's end, right its beginning."""
    skip_reading_prefix_cache: bool | None = None
    """Compute the whole prompt, cached or not."""
    detokenize: bool = True
    """Make text of the tokens; without it there are token ids alone, and no stop strings."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    spaces_between_special_tokens: bool = True
    """Without effect: there are no blanks between special tokens but the tokenizer's own."""

    def __post_init__(self) -> None:
        for name in _SWITCHES:
            if not isinstance(value := getattr(self, name), bool):
                raise ParameterError(name=name, value=value, limit="it must be True or False")
        if not isinstance(self.skip_reading_prefix_cache, bool | None):
            limit = "it must be True, False or None"
            raise ParameterError(name="skip_reading_prefix_cache", value=self.skip_reading_prefix_cache, limit=limit)
        if self.structured_outputs is not None:
            self._set("structured_outputs", StructuredOutputsParams.of(self.structured_outputs))
        self._check_draw()
        self._check_lengths()
        self._check_tokens()
        self._check_logprobs()
        self._check_texts()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_draw(self) -> None:
        greedy = "Use 0 for greedy decoding"
        self._set("temperature", number("temperature", self.temperature, 0.0, 100.0, greedy))
        self._set("top_k", max(whole_number("top_k", self.top_k, -1, fix="0 or -1 keeps every token"), 0))
        self._set("top_p", number("top_p", self.top_p, 0.0, 1.0, "Use 1 to keep every token", above=True))
        self._set("min_p", number("min_p", self.min_p, 0.0, 1.0, "Use 0 to keep every token"))
        if self.seed is not None:
            self._set("seed", whole_number("seed", self.seed, -(2**63), 2**64 - 1))
        for name in ("presence_penalty", "frequency_penalty"):
            self._set(name, number(name, getattr(self, name), -_MAX_PENALTY, _MAX_PENALTY))
        penalty = number("repetition_penalty", self.repetition_penalty, 0.01, 100.0, "Use 1 for no penalty")
        self._set("repetition_penalty", penalty)

    def _check_lengths(self) -> None:
        self._set("n", whole_number("n", self.n, 1, MAX_ANSWERS))
        if self.best_of is not None:
            fix = f"It may not be below n={self.n}"
            self._set("best_of", whole_number("best_of", self.best_of, self.n, MAX_ANSWERS, fix))
        if self.max_tokens is not None:
            fix = "Leave it out (None) to go on to the longest context"
            self._set("max_tokens", whole_number("max_tokens", self.max_tokens, 1, fix=fix))
        self._set("min_tokens", whole_number("min_tokens", self.min_tokens, 0))
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            limit = f"it may not exceed max_tokens={self.max_tokens}"
            raise ParameterError(name="min_tokens", value=self.min_tokens, limit=limit)
        if self.thinking_token_budget is not None:
            budget = whole_number("thinking_token_budget", self.thinking_token_budget, -1, fix="-1 sets no limit")
            self._set("thinking_token_budget", None if budget == -1 else budget)
        if self.truncate_prompt_tokens is not None:
            kept, fix = self.truncate_prompt_tokens, "-1 keeps as many as leave room for max_tokens"
            self._set("truncate_prompt_tokens", whole_number("truncate_prompt_tokens", kept, -1, fix=fix))
            if self.truncate_prompt_tokens == 0:
                limit = "nothing of the prompt would be left"
                raise ParameterError(name="truncate_prompt_tokens", value=0, limit=limit, fix=fix)
        if self.truncation_side not in (None, "left", "right"):
            raise ParameterError(name="truncation_side", value=self.truncation_side, limit="it must be left or right")
        if not isinstance(self.repetition_detection, RepetitionDetectionParams | None):
            limit, fix = (
                "it must be a RepetitionDetectionParams",
                "As in RepetitionDetectionParams(max_pattern_size=8, min_count=4)",
            )
            raise ParameterError(name="repetition_detection", value=self.repetition_detection, limit=limit, fix=fix)

    def _check_tokens(self) -> None:
        self._set("stop_token_ids", _token_ids("stop_token_ids", self.stop_token_ids))
        if self.allowed_token_ids is not None:
            allowed = _token_ids("allowed_token_ids", self.allowed_token_ids)
            if not allowed:
                fix = "Leave it out (None) to allow every token"
                raise ParameterError(name="allowed_token_ids", value=(), limit="no token would be left", fix=fix)
            self._set("allowed_token_ids", allowed)
        if not isinstance(self.logit_bias, Mapping | None):
            raise ParameterError(name="logit_bias", value=self.logit_bias, limit="it must map token ids to numbers")
        items = (self.logit_bias or {}).items()
        bias = {whole_number("logit_bias", token, 0): number("logit_bias", b, -100, 100) for token, b in items}
        if len(bias) > MAX_BIASES:
            limit = f"a request may have at most {MAX_BIASES} entries"
            raise ParameterError(name="logit_bias", value=len(bias), limit=limit, fix="Give fewer")
        self._set("logit_bias", bias)

    def _check_logprobs(self) -> None:
        if self.logprobs is not None:
            fix = "-1 reports the vocabulary, where the engine's max_logprobs is -1"
            self._set("logprobs", whole_number("logprobs", self.logprobs, -1, fix=fix))
        if self.prompt_logprobs is not None:
            self._set("prompt_logprobs", whole_number("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS))
        if self.logprob_token_ids is None:
            return
        named = _token_ids("logprob_token_ids", self.logprob_token_ids)
        if not 1 <= len(named) <= MAX_LOGPROB_IDS:
            limit, fix = f"it may name 1 to {MAX_LOGPROB_IDS} tokens", "Use logprobs for the likeliest ones"
            raise ParameterError(name="logprob_token_ids", value=len(named), limit=limit, fix=fix)
        if self.logprobs not in (None, len(named)):
            limit = f"logprob_token_ids names {len(named)} tokens, and they are told in place of the likeliest"
            raise ParameterError(name="logprobs", value=self.logprobs, limit=limit, fix="Leave logprobs out")
        self._set("logprob_token_ids", named)

    def _check_texts(self) -> None:
        self._set("stop", _strings("stop", self.stop))
        if self.stop and not self.detokenize:
            limit = "without detokenize there is no text to find it in"
            raise ParameterError(name="stop", value=self.stop, limit=limit, fix="Use stop_token_ids")
        words = _strings("bad_words", self.bad_words)
        if len(words) > MAX_BAD_WORDS:
            limit = f"a request may have at most {MAX_BAD_WORDS}"
            raise ParameterError(name="bad_words", value=len(words), limit=limit, fix="Give fewer")
        if (longest := max(map(len, words), default=0)) > MAX_BAD_WORD:
            limit = f"each may have at most {MAX_BAD_WORD} characters"
            raise ParameterError(name="bad_words", value=f"a text of {longest} characters", limit=limit)
        self._set("bad_words", words)

    def with_seed(self, seed: int) -> SamplingParams:
        """The same with another seed; nothing else is looked at again. Raises ParameterError."""
        return self._with("seed", whole_number("seed", seed, -(2**63), 2**64 - 1))

    def with_form(self, form: StructuredOutputsParams | None) -> SamplingParams:
        """The same of an answer of another form; nothing else is looked at again."""
        return self._with("structured_outputs", form)

    def _with(self, name: str, value: object) -> SamplingParams:
        """A copy whose lists are shared: to check a whole vocabulary again takes milliseconds."""
        made = copy(self)
        made._set(name, value)
        return made

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return tuple(self.stop or ())

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return tuple(self.stop_token_ids or ())

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs is not None or self.logprob_token_ids is not None

    @property
    def num_likeliest(self) -> int | None:
        """Likeliest tokens that the sampler itself is asked about; None where it is not asked, or cannot tell."""
        if self.logprobs is None or self.logprob_token_ids is not None:
            return None
        return self.logprobs if 0 <= self.logprobs <= MAX_LOGPROBS else None


_SWITCHES = (
    *("ignore_eos", "include_stop_str_in_output", "detokenize", "skip_special_tokens"),
    "spaces_between_special_tokens",
)


def _strings(name: str, given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Texts, each once, in their order."""
    if not isinstance(given, str | Sequence | None):
        raise ParameterError(name=name, value=given, limit="it must be a string or a list of strings")
    strings = (given,) if isinstance(given, str) else tuple(given or ())
    for text in strings:
        if not isinstance(text, str) or not text:
            raise ParameterError(name=name, value=text, limit="each must be a non-empty string")
    return tuple(dict.fromkeys(strings))


def _token_ids(name: str, given: Iterable[int] | None) -> tuple[int, ...]:
    """Token ids, each once, in their order."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable | None):
        raise ParameterError(name=name, value=given, limit="it must be a list of token ids")
    listed = tuple(given or ())
    if {*map(type, listed)} <= {int} and min(listed, default=0) > -1 and max(listed, default=0) < 2**31:
        return tuple(dict.fromkeys(listed))  # as fast for a whole vocabulary
    return tuple(dict.fromkeys(whole_number(name, token, 0) for token in listed))
