"""Which guesses are worth a row of the next step. [host half: no jax]

A guess takes a row; it saves a step of its request where it comes true. A step with guesses must wait for the results
of the one before it, which one without need not. So guesses are made only where the tokens that they are expected to
add outweigh what the rows and the wait cost, both as measured; with as many requests as there are rows there is no room
for any, and nothing is done at all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from jaxpaged.request import PENDING, Request
from jaxpaged.speculation.acceptance import DRAWN, Acceptance, Trust
from jaxpaged.speculation.answers import AnswerStore
from jaxpaged.speculation.config import SpeculationConfig
from jaxpaged.speculation.costs import Costs, DraftCosts, StepCosts
from jaxpaged.speculation.counts import SpeculationCounts
from jaxpaged.speculation.draft_model import DraftModel
from jaxpaged.speculation.drafter import NO_GUESS, Drafter, Guess, NoDrafter
from jaxpaged.speculation.forced import ForcedDrafter, Forcing
from jaxpaged.speculation.ngram import NgramDrafter
from jaxpaged.speculation.suffix import SuffixDrafter

Charge = Callable[[int], int]
"""How many rows a step computes, padding included, with so many drafted ones in it."""
Reach = Callable[[Request, int], int]
"""How many of so many guesses of a request have a block to go to; takes the blocks."""
_MARGIN = 1.05  # how much faster it must promise to be
_LEARNED_AT_ONCE = 512  # tokens of all requests together in one step: some 1 ms
_REST = 16  # steps without a draft model's guesses after one in which nobody had a block for them
_LOOKED_EVERY = 8  # steps, where a draft model's guesses do not pay
_LONGEST_PAUSE = 64  # steps without a draft model's guesses, after which one is tried


class _Track:
    """One request's guesses. guess: the latest one, of the tokens from place `start` on. trust: by guesses of the same
    class; drawn: by all of a draft model. taken_in: whether one has taken in its tokens."""

    __slots__ = ("drafter", "drawn", "guess", "start", "taken_in", "trust")

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter
        self.trust, self.drawn = Trust(), Trust()
        self.guess = NO_GUESS
        self.start = 0
        self.taken_in = False


class Speculator:
    """Makes guesses for the requests of one scheduler, and learns from what becomes of them. Not thread-safe.

    pads: whether padding costs what rows do. make: a request's drafter, in place of the one that `config` asks for.
    costs: of steps, in place of what is measured. draft: the model of method draft_model.
    """

    def __init__(
        self,
        config: SpeculationConfig,
        *,
        pads: bool = True,
        make: Callable[[Request], Drafter] | None = None,
        costs: Costs | None = None,
        draft: DraftModel | None = None,
    ) -> None:
        assert (draft is None) == (config.method != "draft_model"), "the method has a model, the others have none"
        self.config = config
        self.draft = draft
        self.counts = SpeculationCounts(accepted_at=[0] * config.num_speculative_tokens)
        self.costs: Costs = costs or StepCosts()
        self.pads = pads
        self._acceptance = Acceptance()
        suffix = config.method == "suffix"
        answers = config.suffix_decoding_max_cached_requests if suffix else 0
        self._answers = AnswerStore(answers) if answers else None
        self._least = config.suffix_decoding_min_token_prob if suffix else 0.0
        self._make = make or self._drafter_of
        self._tracks: dict[str, _Track] = {}
        self.drawing_s = 0.0
        """Seconds that the draft model took."""
        self.passes = 0
        """Of the draft model, without those that took in prompts."""
        self._draft_costs = None if draft is None else DraftCosts(self.costs, share=draft.share)
        self._untried = 0  # steps since a draft model's guesses were tried
        self._resting = 0  # steps for which none are wanted
        self._pause = _LONGEST_PAUSE  # after how many they are: half as many when one came true, twice when it did not

    def choose(
        self, requests: Sequence[Request], room: int, charge: Charge, reach: Reach | None = None
    ) -> list[tuple[int, ...]]:
        """The guesses that get rows beside the next token of each of `requests`, of which all tokens are known.

        room: rows that there are for them at most. reach: a draft model writes to blocks, others need none yet.
        """
        if self._answers is not None:
            self._answers.work()
        if self._rests(requests) or not self._may_pay(len(requests), room, charge):
            return [()] * len(requests)
        guesses = self._guesses(requests)
        if self.draft is not None:
            assert reach is not None
            guesses = self._drawn(self.draft, requests, guesses, room, charge, reach)
        candidates = self._candidates(requests, guesses)[:room]
        taken = [0] * len(requests)
        drawn = any(guess.is_drawn for guess in guesses)  # their cost is spent, and so is the wait
        for _, i in candidates[: self._best([gain for gain, _ in candidates], len(requests), charge, waited=drawn)]:
            taken[i] += 1  # a request's guesses come in their order, since their gains fall
        return [guess.tokens[:count] for guess, count in zip(guesses, taken, strict=True)]

    def worth_waiting(self, requests: Sequence[Request], room: int, charge: Charge) -> bool:
        """Whether the next step is likely to be better with guesses, for which the tokens that are `PENDING` must be
        there first."""
        if self._rests(requests) or not self._may_pay(len(requests), room, charge):
            return False
        candidates = self._candidates(requests, self._guesses(requests))[:room]
        if not candidates and self.draft is not None:
            drawable = [one for one in requests if self._most_drawn(one) > 0]
            return bool(drawable) and self._depth(drawable, room, charge)[0] > 0
        return self._best([gain for gain, _ in candidates], len(requests), charge) > 0

    def verified(self, place: int, *, accepted: bool) -> None:
        """Note what became of a request's guess number `place`, from 0 on."""
        counts = self.counts
        counts.drafts += place == 0
        counts.draft_tokens += 1
        counts.accepted_tokens += accepted
        counts.accepted_at[place] += accepted

    def ended(self, request: Request) -> None:
        """Forget a request. Its answer may serve others, unless it asked for a namespace of its own."""
        self._tracks.pop(request.id, None)
        if self.draft is not None:
            self.draft.forget(request)
        if self._answers is not None and not request.salt:
            self._answers.add(request.tokens[len(request.prompt) :])

    def _may_pay(self, count: int, room: int, charge: Charge) -> bool:
        """Whether guesses could be worth it if nearly all of them came true; before anything is looked up."""
        most = min(room, count * self.config.num_speculative_tokens)
        drafted = 1
        while drafted <= most:
            if self._pays(count + drafted, drafted, count, charge):
                return True
            drafted = most if drafted < most < 2 * drafted else 2 * drafted
        return False

    def _pays(self, tokens: float, drafted: int, count: int, charge: Charge) -> bool:
        plain = count / self.costs.of(charge(0), waited=False)
        passes = -(-drafted // count)
        return tokens / (self.costs.of(charge(drafted), waited=True) + self._drawing(passes, count)) > _MARGIN * plain

    def _drawing(self, passes: int, count: int) -> float:
        """What so many passes of a draft model with `count` rows take."""
        return passes * self._draft_costs.of(count) if self._draft_costs else 0.0

    def _rests(self, requests: Sequence[Request]) -> bool:
        """Whether a draft model is not to be thought of in this step, nor does anything else guess."""
        if not self._resting or any(request.constraints for request in requests):
            return False
        self._resting -= 1
        return True

    def _depth(self, requests: Sequence[Request], room: int, charge: Charge) -> tuple[int, bool]:
        """How many tokens a draft model had best draw of each request, by how its earlier ones came true; and whether
        that is but to try it."""
        count = len(requests)
        rate, best = _MARGIN * count / self.costs.of(charge(0), waited=False), 0
        mean = self._acceptance.rate(DRAWN)
        tracks = [self._tracks[request.id] for request in requests]
        likelihoods = [track.drawn.likelihood(mean) for track in tracks]
        # what taking in a request costs, spread over the rest of its answer
        new = (request for request, track in zip(requests, tracks, strict=True) if not track.taken_in)
        taking = sum(
            self._taking(request.num_tokens) / max(1, request.max_tokens - request.num_output) for request in new
        )
        gains: list[float] = []
        for depth in range(1, min(self.config.num_speculative_tokens, room) + 1):
            gains = sorted((*gains, *(likelihood**depth for likelihood in likelihoods)), reverse=True)[:room]
            tokens = count + sum(gains)
            step = self.costs.of(charge(len(gains)), waited=True) + taking * tokens / count
            promised = tokens / (step + self._drawing(depth, count))
            if promised > rate:
                best, rate = depth, promised
        if best:
            self._untried = 0
            return best, False
        self._untried += _LOOKED_EVERY
        if self._untried > self._pause:
            return 1, True
        self._resting = _LOOKED_EVERY - 1
        return 0, False

    def _taking(self, tokens: int) -> float:
        """What it takes a draft model to take in so many tokens."""
        return self._draft_costs.of_tokens(tokens) if self._draft_costs else 0.0

    def _most_drawn(self, request: Request) -> int:
        """How many guesses a draft model may draw of a request at most."""
        assert self.draft is not None
        return min(request.max_tokens - request.num_output - 1, self.draft.longest - request.num_tokens)

    def _drawn(
        self,
        draft: DraftModel,
        requests: Sequence[Request],
        guesses: list[Guess],
        room: int,
        charge: Charge,
        reach: Reach,
    ) -> list[Guess]:
        """The guesses, with those of the draft model where there is none; no more than are likely to pay."""
        without = [i for i, guess in enumerate(guesses) if not guess.tokens and self._most_drawn(requests[i]) > 0]
        depth, tries = self._depth([requests[i] for i in without], room, charge) if without else (0, False)
        if not depth:
            return guesses
        self._untried = 0
        if tries or (self._draft_costs and not self._draft_costs.known):  # one will do, the one that costs least
            without = [min(without, key=lambda i: (not self._tracks[requests[i].id].taken_in, requests[i].num_tokens))]
        counts = {i: min(depth, self._most_drawn(requests[i])) for i in without}
        asked = {i: count for i, count in counts.items() if reach(requests[i], count) == count}
        if not asked:
            self._resting = _REST
            return guesses
        drawn = self._propose(draft, [requests[i] for i in asked], list(asked.values()))
        guesses = [*guesses]
        for i, guess in zip(asked, drawn, strict=True):
            guesses[i] = self._tracks[requests[i].id].guess = guess
        return guesses

    def _propose(self, draft: DraftModel, requests: Sequence[Request], counts: Sequence[int]) -> list[Guess]:
        drawn = draft.propose(requests, counts)
        self.drawing_s += drawn.seconds
        self.passes += drawn.passes
        if self._draft_costs is not None:
            if drawn.passes:
                self._draft_costs.note(len(requests), drawn.seconds / drawn.passes)
            else:
                self._draft_costs.note_tokens(drawn.taken_in, drawn.seconds)
        for request in requests:
            self._tracks[request.id].taken_in = True
        return drawn.guesses

    def _guesses(self, requests: Sequence[Request]) -> list[Guess]:
        """What may follow the known tokens of each."""
        budget = _LEARNED_AT_ONCE if self.draft is None else sys.maxsize
        guesses: list[Guess] = []
        for request in requests:
            end = len(request.tokens) - _num_pending(request)
            track = self._tracks.get(request.id)
            if track is None or track.drafter.num_learned > end:
                track = self._tracks[request.id] = _Track(self._make(request))
            fresh = end - track.drafter.num_learned
            if fresh > budget:  # a long prompt is taken in over several steps, so that none waits for it
                track.drafter.learn(request.tokens, end - fresh + budget)
                budget, track.guess = 0, NO_GUESS
            elif fresh:
                self._learn(track, request, end)
                budget -= fresh
            guesses.append(track.guess)
        return guesses

    def _learn(self, track: _Track, request: Request, end: int) -> None:
        """Compare the latest guess with what came, and make the next one."""
        guess, tokens = track.guess, request.tokens
        came = tokens[track.start : min(end, track.start + len(guess.tokens))]
        for i, (guessed, token) in enumerate(zip(guess.tokens, came, strict=False)):
            hit, kind = guessed == token, guess.kind(i)
            track.trust.note(self._acceptance.rate(kind), hit=hit)
            self._acceptance.note(kind, hit=hit)
            if guess.is_drawn:
                track.drawn.note(self._acceptance.rate(DRAWN), hit=hit)
                self._acceptance.note(DRAWN, hit=hit)
                self._pause = max(1, self._pause // 2) if hit else min(_LONGEST_PAUSE, 2 * self._pause)
            if not hit:
                break
        track.drafter.learn(tokens, end)
        track.guess = track.drafter.guess(tokens, self.config.num_speculative_tokens + 1)  # one may be pending
        track.start = end

    def _candidates(self, requests: Sequence[Request], guesses: Sequence[Guess]) -> list[tuple[float, int]]:
        """Of all guesses that a step could have, how likely each adds a token and whose it is; the likeliest first."""
        found: list[tuple[float, int]] = []
        for i, (request, guess) in enumerate(zip(requests, guesses, strict=True)):
            pending = _num_pending(request)
            most = min(self.config.num_speculative_tokens, request.max_tokens - request.num_output - 1)
            trust, gain = self._tracks[request.id].trust, 1.0
            for place in range(min(len(guess.tokens), pending + most)):
                gain *= trust.likelihood(self._acceptance.rate(guess.kind(place)))
                if gain < self._least:
                    break
                if place >= pending:
                    found.append((gain, i))
        found.sort(key=lambda candidate: -candidate[0])
        return found

    def _best(self, gains: Sequence[float], count: int, charge: Charge, *, waited: bool = False) -> int:
        """How many guesses, from the likeliest on, make `count` requests fastest. waited: without any, too."""
        best = 0
        rate = (1.0 if waited else _MARGIN) * count / self.costs.of(charge(0), waited=waited)
        tokens = float(count)
        for drafted, gain in enumerate(gains, 1):
            tokens += gain
            promised = tokens / self.costs.of(charge(drafted), waited=True)
            if promised > rate:
                best, rate = drafted, promised
        return best

    def _drafter_of(self, request: Request) -> Drafter:
        found = self._lookup_of(request)
        forcing = next((one for one in request.constraints if isinstance(one, Forcing)), None)
        return found if forcing is None else ForcedDrafter(found, forcing, prompt=len(request.prompt))

    def _lookup_of(self, request: Request) -> Drafter:
        config = self.config
        if config.method == "draft_model":
            return NoDrafter()
        if config.method == "ngram":
            return NgramDrafter(shortest=config.prompt_lookup_min, longest=config.prompt_lookup_max)
        return SuffixDrafter(
            depth=config.suffix_decoding_max_tree_depth,
            factor=config.suffix_decoding_max_spec_factor,
            answers=None if request.salt else self._answers,
        )


def _num_pending(request: Request) -> int:
    """Tokens at the end that are still to come."""
    count = 0
    while request.tokens[-1 - count] == PENDING:
        count += 1
    return count
