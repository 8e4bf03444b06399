"""Beam search over forks: which beams go on, with which tokens, and what is found. [host half: no jax]

The beams of a search are as many requests of one prompt, which are held: each draws a token's distribution and waits.
Once all of them wait, the likeliest continuations are chosen and every request goes on as one of them, where it is no
parent as a fork of one (`Scheduler.choose`). The definition is vLLM's: a beam has twice as many continuations as there
are beams; one that ends the text is complete and takes no beam's place; after the last token complete and incomplete
ones are ranked by log probability over length to the power of the penalty, the length being that of prompt and answer
without a token that ends it. Log probabilities are the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxpaged.errors import ParameterError
from jaxpaged.request import FinishReason, Logprob, Request, TokenEvent
from jaxpaged.sampling_params import MAX_LOGPROBS, SamplingParams

MAX_BEAMS = MAX_LOGPROBS // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearchParams:
    """How to search. Names, defaults and meanings are vLLM's. Raises ParameterError naming field, value and limit."""

    beam_width: int
    """Beams kept in each step, and sequences told at the end."""
    max_tokens: int
    """Tokens of a sequence at most, without the prompt's."""
    ignore_eos: bool = False
    """Go on after the model's end of text."""
    temperature: float = 0.0
    """0, or 1: beams are ranked by the model's own probabilities."""
    length_penalty: float = 1.0
    """Above 0 makes long sequences likelier, below 0 short ones."""
    include_stop_str_in_output: bool = False
    """Keep the token that ended a sequence in it."""

    def __post_init__(self) -> None:
        if isinstance(self.beam_width, bool) or not isinstance(self.beam_width, int):
            raise ParameterError(name="beam_width", value=self.beam_width, limit="it must be a whole number")
        check_beams(self.beam_width, vocab=2 * MAX_BEAMS)
        if self.temperature not in (0.0, 1.0):
            limit = "beams are ranked by the model's own probabilities"
            raise ParameterError(name="temperature", value=self.temperature, limit=limit, fix="Leave it out")
        check_length_penalty(self.length_penalty)
        self.sampling()

    def sampling(self) -> SamplingParams:
        """What each request of the search asks for. Raises ParameterError."""
        return SamplingParams(
            n=self.beam_width,
            temperature=0.0,
            max_tokens=self.max_tokens,
            ignore_eos=self.ignore_eos,
            include_stop_str_in_output=self.include_stop_str_in_output,
            logprobs=2 * self.beam_width,
        )


def search_of(params: SamplingParams | BeamSearchParams) -> tuple[SamplingParams, float | None]:
    """What the requests ask for, and the length penalty where they are the beams of a search."""
    return (params.sampling(), params.length_penalty) if isinstance(params, BeamSearchParams) else (params, None)


def check_beams(width: int, *, vocab: int) -> None:
    """Raise ParameterError for more beams than the sampler tells continuations for."""
    if not 1 <= width <= min(MAX_BEAMS, vocab // 2):
        limit = f"it must be from 1 to {min(MAX_BEAMS, vocab // 2)}: the sampler tells two continuations for each beam"
        raise ParameterError(name="beam_width", value=width, limit=limit)


def check_length_penalty(value: object) -> None:
    """Raise ParameterError unless it is a number that a length may be raised to."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -10.0 <= value <= 10.0:
        raise ParameterError(name="length_penalty", value=value, limit="it must be a number from -10 to 10")


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearchSequence:
    """One sequence that was found; field names are vLLM's. tokens, text: of prompt and answer. logprobs: of the answer,
    of a token that ended it, too."""

    tokens: tuple[int, ...]
    logprobs: tuple[Mapping[int, Logprob], ...]
    cum_logprob: float
    text: str
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearchOutput:
    """What a search found, the best sequence first."""

    sequences: tuple[BeamSearchSequence, ...]


class _Beam(NamedTuple):
    """An answer, as far as it goes. logprobs: of each place the alternatives, the token's own among them."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[Mapping[int, Logprob], ...] = ()
    total: float = 0.0
    ended_by: int | None = None

    def extended(self, token: int, alternatives: Mapping[int, Logprob], *, ends: bool) -> _Beam:
        total = self.total + alternatives[token].logprob
        return _Beam((*self.tokens, token), (*self.logprobs, alternatives), total, token if ends else None)


Pick = tuple[Request, Request, int]
"""A request of the search, which of them it goes on as, and the token that it goes on with."""


class BeamSearch:
    """One search. Mutable. requests: one a beam, held and of one prompt; a token of `stop_ids` ends a sequence."""

    def __init__(self, requests: Sequence[Request], *, length_penalty: float) -> None:
        self.requests = tuple(requests)
        self.error: str | None = None
        """Why there is no result: the first failure of a beam."""
        self.unread: set[str] = set()
        """Ids of requests whose answers nobody wants any more."""
        first = self.requests[0]
        self._width, self._most = len(self.requests), first.max_tokens
        self._stop_ids, self._prompt_len = first.stop_ids, len(first.prompt)
        self._length_penalty = length_penalty
        self._drawn: dict[str, Mapping[int, Logprob]] = {}
        self._live: dict[str, _Beam] = {first.id: _Beam()}  # by the request that computes it; others are the same yet
        self._complete: list[_Beam] = []

    def take(self, event: TokenEvent) -> None:
        """What a beam's next token may be, or that it failed."""
        if event.token is None:
            self.error = event.error or "it was ended"
        else:
            assert event.logprobs is not None, "a beam draws alternatives"
            self._drawn[event.request_id] = event.logprobs

    @property
    def waits(self) -> bool:
        """Whether all beams have drawn, so that it is on `choose` to go on."""
        return all(request.paused for request in self.requests)

    def choose(self) -> list[Pick]:
        """How each request goes on; none where the search is over. Each parent goes on in its own request."""
        by_id = {request.id: request for request in self.requests}
        found: list[tuple[float, int, str, _Beam]] = []
        for place, (name, beam) in enumerate(self._live.items()):
            alternatives = self._drawn[name]
            for token, entry in alternatives.items():
                if entry.rank is None or entry.rank > 2 * self._width:
                    continue  # the token that was drawn, where it is none of the likeliest
                longer = beam.extended(token, alternatives, ends=token in self._stop_ids)
                if longer.ended_by is not None:
                    self._complete.append(longer)
                else:
                    found.append((-longer.total, place * MAX_LOGPROBS + entry.rank, name, longer))
        chosen = sorted(found, key=lambda entry: entry[:2])[: self._width]
        if not chosen or len(chosen[0][3].tokens) == self._most or self._is_decided([entry[3] for entry in chosen]):
            self._complete += [longer for *_, longer in chosen]
            return []
        parents = dict.fromkeys(name for _, _, name, _ in chosen)
        free = iter([request for request in self.requests if request.id not in parents])
        own = set(parents)
        picks: list[Pick] = []
        self._live = {}
        for _, _, name, longer in chosen:
            request = by_id[name] if name in own else next(free)
            own.discard(name)
            self._live[request.id] = longer
            picks.append((request, by_id[name], longer.tokens[-1]))
        return picks

    def events(self) -> list[TokenEvent]:
        """What was found, the best first: as what the requests are told, each all of its answer."""
        if self.error is not None:
            ends = [TokenEvent(request.id, None, FinishReason.ERROR, error=self.error) for request in self.requests]
            return [event for event in ends if event.request_id not in self.unread]
        best = sorted(self._complete, key=self._score, reverse=True)[: self._width]  # stable: the first one found
        assert len(best) == self._width, f"{len(best)} sequences of {self._width}"
        events: list[TokenEvent] = []
        for request, beam in zip(self.requests, best, strict=True):
            if request.id in self.unread:
                continue
            *others, last = zip(beam.tokens, beam.logprobs, strict=True)
            events += [TokenEvent(request.id, token, logprobs=logprobs) for token, logprobs in others]
            stopped = beam.ended_by is not None
            finish = FinishReason.STOP if stopped else FinishReason.LENGTH
            named = beam.ended_by if beam.ended_by in request.params.stop_ids else None
            events.append(TokenEvent(request.id, last[0], finish, named, last[1]))
        return events

    def _score(self, beam: _Beam) -> float:
        return self._scaled(beam.total, len(beam.tokens) - (beam.ended_by is not None))

    def _scaled(self, total: float, length: int) -> float:
        return total / (self._prompt_len + length) ** self._length_penalty

    def _is_decided(self, beams: Sequence[_Beam]) -> bool:
        """Whether nothing that grows out of these beams comes before the best ones that are complete."""
        if len(self._complete) < self._width:
            return False
        worst = sorted(map(self._score, self._complete), reverse=True)[self._width - 1]
        # a total only falls; for one of them the score is monotone in the length
        return all(
            max(self._scaled(beam.total, length) for length in (len(beam.tokens), self._most)) <= worst
            for beam in beams
        )
