"""From token events to text: one `Completion` per request detokenises, watches for stop strings, and reports.

The engine below it knows only token ids; text lives here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum

from jaxpaged.detokenize import Detokenizer
from jaxpaged.request import (
    CompletionOutput,
    FinishReason,
    Logprob,
    PromptLogprobs,
    Request,
    RequestMetrics,
    RequestOutput,
    TokenEvent,
)
from jaxpaged.stopping import StopScanner
from jaxpaged.tokenize import NoTokenizer, Tokenizer


class OutputKind(Enum):
    """What each `RequestOutput` of a request holds; the words are vLLM's `RequestOutputKind`."""

    CUMULATIVE = "cumulative"  # all so far
    DELTA = "delta"  # what is new since the last one
    FINAL_ONLY = "final_only"  # all, once, at the end


class Completion:
    """The text side of one request. Mutable; belongs to whoever reads the engine's events.

    shown: special tokens that are part of the text, though the request leaves out others.
    """

    def __init__(
        self,
        request: Request,
        tokenizer: Tokenizer | NoTokenizer,
        *,
        prompt: str | None,
        kind: OutputKind,
        clock: Callable[[], float],
        shown: frozenset[int] = frozenset(),
    ) -> None:
        self.request = request
        self.kind = kind
        self._prompt = prompt
        self._clock = clock
        self._tokenizer = tokenizer if request.params.detokenize else NoTokenizer()
        skips = request.params.skip_special_tokens
        self._detokenizer = Detokenizer(self._tokenizer, skip_special_tokens=skips, shown=shown)
        self._scanner = StopScanner(request.params.stop_strings, include_stop=request.params.include_stop_str_in_output)
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[Mapping[int, Logprob]] = []
        self._prompt_logprobs: PromptLogprobs | None = None
        self._cumulative_logprob = 0.0
        self._sent_texts = self._sent_tokens = 0
        self._first_token_s: float | None = None
        self._finished_s: float | None = None
        self._finish: FinishReason | None = None
        self._stop_reason: int | str | None = None
        self._error: str | None = None

    @property
    def finished(self) -> bool:
        return self._finish is not None

    @property
    def finish(self) -> FinishReason | None:
        """Why it ended; None while it goes on."""
        return self._finish

    def push(self, event: TokenEvent) -> bool:
        """Take one event. True when a stop string ended the text: the request must then be finished below."""
        stopped_by: str | None = None
        token = event.token
        if token is not None:
            if self._first_token_s is None:
                self._first_token_s = self._clock()
            self._token_ids.append(token)
            if event.logprobs is not None:
                self._take_logprobs(token, event.logprobs)
            if event.prompt_logprobs is not None:
                self._prompt_logprobs = self._with_texts(event.prompt_logprobs)
            if event.finish is None or token not in self._silent_ids(event):
                stopped_by = self._scan(self._detokenizer.push(token))
        if stopped_by is None and event.finish is not None:
            stopped_by = self._scan(self._detokenizer.flush())
            if stopped_by is None:
                self._text.append(self._scanner.flush())
                self._end(event.finish, event.stop_reason, event.error)
                return False
        if stopped_by is not None:
            self._end(FinishReason.STOP, stopped_by, None)
            return event.finish is None
        return False

    def output(self) -> RequestOutput:
        """What there is to tell now, as `kind` says; a delta is told once."""
        told_before = self.kind is OutputKind.DELTA and self._sent_tokens > 0
        return RequestOutput(
            request_id=self.request.id,
            prompt=self._prompt,
            prompt_token_ids=self.request.prompt,
            outputs=(self.said(),),
            finished=self.finished,
            prompt_logprobs=None if told_before else self._prompt_logprobs,
            num_cached_tokens=self.request.num_cached,
            metrics=RequestMetrics(
                arrival_s=self.request.arrival_s,
                first_token_s=self._first_token_s,
                finished_s=self._finished_s,
                num_preemptions=self.request.num_preemptions,
            ),
            error=self._error,
        )

    def said(self) -> CompletionOutput:
        """The answer's part of `output`; told once likewise."""
        first_text, first_token = (self._sent_texts, self._sent_tokens) if self.kind is OutputKind.DELTA else (0, 0)
        self._sent_texts, self._sent_tokens = len(self._text), len(self._token_ids)
        asked = self.request.params.wants_logprobs
        return CompletionOutput(
            index=0,
            text="".join(self._text[first_text:]),
            token_ids=tuple(self._token_ids[first_token:]),
            cumulative_logprob=self._cumulative_logprob if asked else None,
            logprobs=tuple(self._logprobs[first_token:]) if asked else None,
            finish_reason=self._finish.value if self._finish else None,
            stop_reason=self._stop_reason,
        )

    def _scan(self, text: str) -> str | None:
        if not text:
            return None
        params = self.request.params
        # stop strings begin to count after the least number of tokens
        if not params.stop_strings or len(self._token_ids) <= params.min_tokens:
            self._text.append(text)
            return None
        step = self._scanner.push(text)
        self._text.append(step.text)
        return step.matched

    def _silent_ids(self, event: TokenEvent) -> frozenset[int]:
        """A stop token ends the text without being part of it, unless the request asked to see it."""
        if event.finish is FinishReason.STOP and not self.request.params.include_stop_str_in_output:
            return self.request.stop_ids
        return frozenset()

    def _take_logprobs(self, token: int, logprobs: Mapping[int, Logprob]) -> None:
        self._logprobs += filter(None, self._with_texts((logprobs,)))
        self._cumulative_logprob += logprobs[token].logprob

    def _with_texts(self, places: PromptLogprobs) -> PromptLogprobs:
        """The same with each token's text; one that comes again, as the likeliest ones do, is decoded once."""
        if not self.request.params.detokenize:
            return places
        tokens = {token for place in places if place for token in place}
        texts = {token: self._tokenizer.decode([token]) for token in tokens}
        return tuple(
            place
            and {
                token: Logprob(logprob=p.logprob, rank=p.rank, decoded_token=texts[token]) for token, p in place.items()
            }
            for place in places
        )

    def _end(self, finish: FinishReason, stop_reason: int | str | None, error: str | None) -> None:
        self._finish, self._stop_reason, self._error = finish, stop_reason, error
        self._finished_s = self._clock()
