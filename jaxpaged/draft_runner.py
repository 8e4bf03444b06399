"""The device half of a draft model: it draws guesses of several requests at once, a token each in a pass.

The same engine core: its steps are those of the served model's buckets, run by a `ModelRunner` with a pool of its own,
whose blocks are those of the served model: whoever holds a block holds both halves of it. The first pass takes in what
is new of each request, the others one guess each, which the device has drawn and the host has not seen.

Guesses are drawn as the request's own tokens are, with its options and from its seed and place: where both models hold
the same token likeliest by the same noise, the guess comes true (coupling by common random numbers: Daliri, Musco,
Suresh 2024), and without temperature where they hold the same token likeliest. Masks are left to the served model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxpaged.batch import Packer, StepFields, StepInputs, StepLayout, unpack
from jaxpaged.buckets import Bucket, BucketTable
from jaxpaged.loaded_draft import LoadedDraft
from jaxpaged.plan import RowPlan, StepPlan
from jaxpaged.request import PENDING, Request
from jaxpaged.runner import ModelRunner, StepResult
from jaxpaged.speculation.draft_model import Drawn
from jaxpaged.speculation.drafter import NO_GUESS, Guess
from jaxpaged.speculation.fills import DraftFills


@dataclass(slots=True)
class _Progress:
    """How far a request is taken in. tables: its block tables then. guess: what was drawn after its first `end` tokens,
    of which all but the last were taken in, too."""

    tables: Sequence[object]
    known: int = 0
    end: int = 0
    guess: tuple[int, ...] = ()


class DraftRunner:
    """Draws guesses: see `DraftModel`. buckets: those that steps may have, all of them compiled. Not thread-safe."""

    def __init__(
        self,
        draft: LoadedDraft,
        served: ModelRunner,
        buckets: BucketTable,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """served: runs the served model."""
        model, config = draft.model.config, served.config
        self.name = draft.name
        self.buckets = buckets
        self.share = draft.weight_bytes / sum(leaf.nbytes for leaf in served.leaves)
        self.longest = min(config.max_model_len, model.max_positions, draft.longest or config.max_model_len)
        self.runner = served.beside(draft.model, draft.resolved(config))
        self.fills = DraftFills(config.num_blocks, block_size=config.block_size, group=draft.group)
        self._vocab = min(model.vocab, served.model.config.vocab)
        self._nobody = config.num_seats
        self._clock = clock
        self._progress: dict[str, _Progress] = {}
        self._packer = Packer(
            num_seats=config.num_seats,
            table_width=config.table_width,
            groups=[draft.group],
            max_model_len=config.max_model_len,
            vocab_size=served.model.config.vocab,
        )

    def propose(self, requests: Sequence[Request], counts: Sequence[int]) -> Drawn:
        """See `DraftModel`."""
        began = self._clock()
        if self.runner.pool_is_lost:
            self.runner.rebuild_pool()
        try:
            rows = self._first_rows(requests)
            guesses = self._draw(rows, {id(request): count for request, count in zip(requests, counts, strict=True)})
        except BaseException:  # how far it came is not known
            self.restart()
            raise
        taken_in = sum(row.length for row in rows)
        has_prompts = taken_in > len(rows) * (1 + max(counts))
        return Drawn(
            guesses=[guesses.get(id(request), NO_GUESS) for request in requests],
            seconds=self._clock() - began,
            passes=0 if has_prompts else max(counts),
            taken_in=taken_in,
        )

    def forget(self, request: Request) -> None:
        """See `DraftModel`."""
        self._progress.pop(request.id, None)

    def restart(self) -> None:
        """Begin anew, with nothing taken in."""
        self.fills.forget()
        self._progress.clear()

    def _first_rows(self, requests: Sequence[Request]) -> list[RowPlan]:
        """What is to be taken in of each, as far as a step has room; those with one token first."""
        room, rows = self.buckets.max_step_tokens, list[RowPlan]()
        for request in requests:
            known = self._known(request)
            if count := min(request.num_tokens - known, room):
                rows.append(RowPlan(request, known, count, known + count == request.num_tokens))
                room -= count
                # all rows of a pass write before any looks, so who shares these blocks need not compute them as well
                self.fills.computed(request, known, known + count)
        return sorted(rows, key=lambda row: row.length > 1)

    def _known(self, request: Request) -> int:
        """How many tokens of a request are taken in; never all, since the last one's logits are wanted."""
        progress = self._progress.get(request.id)
        if progress is None or progress.tables is not request.block_ids:  # other blocks than before
            progress = self._progress[request.id] = _Progress(request.block_ids)
        if progress.guess:
            right = progress.end
            for guessed, token in zip(progress.guess[:-1], request.tokens[right:], strict=False):
                if guessed != token:
                    break
                right += 1
            self.fills.computed(request, progress.end, right)
            progress.guess = ()
        progress.known = self.fills.known(request, progress.known)
        return min(progress.known, request.num_tokens - 1)

    def _draw(self, rows: Sequence[RowPlan], counts: dict[int, int]) -> dict[int, Guess]:
        """The guesses by their requests' id()."""
        longest = max(row.length for row in rows)
        bucket = self.buckets.fit(sum(row.length for row in rows), len(rows), decode=longest == 1)
        inputs, _ = self._pack(rows, bucket)
        results = [self.runner.execute(inputs, bucket)]
        whole = [i for i, row in enumerate(rows) if row.samples]
        whole.sort(key=lambda i: -counts[id(rows[i].request)])
        requests = [rows[i].request for i in whole]
        further = [counts[id(request)] for request in requests]
        if further and further[0] > 1:
            results += self._further(requests, further)
        drawn = [(np.asarray(it.sampled.tokens), np.exp(np.asarray(it.sampled.logprob))) for it in results]
        drawn[0] = drawn[0][0][whole], drawn[0][1][whole]  # the others have these requests' order
        guesses: dict[int, Guess] = {}
        for place, (request, count) in enumerate(zip(requests, further, strict=True)):
            found = [(int(tokens[place]), float(likelihoods[place])) for tokens, likelihoods in drawn[:count]]
            good = next((j for j, (token, _) in enumerate(found) if not 0 <= token < self._vocab), len(found))
            tokens, likelihoods = tuple(t for t, _ in found[:good]), tuple(p for _, p in found[:good])
            progress = self._progress[request.id]
            progress.end, progress.guess = request.num_tokens, tokens
            guesses[id(request)] = Guess(tokens, 0, likelihoods) if tokens else NO_GUESS
        return guesses

    def _further(self, requests: Sequence[Request], counts: Sequence[int]) -> list[StepResult]:
        """The passes after the first one. counts: falling; whoever has had its passes leaves the last rows empty."""
        requests = [request for request, count in zip(requests, counts, strict=True) if count > 1]
        bucket = self.buckets.fit(len(requests), len(requests), decode=True)
        rows = [RowPlan(request, request.num_tokens, 1, True, (PENDING,)) for request in requests]
        inputs, fields = self._pack(rows, bucket)
        fields.seats[: len(rows)] = [request.seat for request in requests]
        results = [self.runner.execute(inputs, bucket)]
        for done in range(2, counts[0]):
            left = sum(count > done for count in counts)
            ints = inputs.ints.copy()  # the device may read the ones before still
            fields = _fields(ints, self.runner.layout(bucket))
            fields.kv_lens[:left] += 1
            fields.positions[:left] += 1
            fields.kv_lens[left:] = fields.positions[left:] = fields.token_ids[left:] = 0
            fields.seats[left:] = self._nobody
            inputs = replace(inputs, ints=ints)
            results.append(self.runner.execute(inputs, bucket))
        return results

    def _pack(self, rows: Sequence[RowPlan], bucket: Bucket) -> tuple[StepInputs, StepFields]:
        """The inputs of a pass, which tells how likely each token was held. Their fields are views of them."""
        inputs = self._packer.pack(StepPlan(rows=tuple(rows), bucket=bucket), self.runner.layout(bucket))
        fields = _fields(inputs.ints, self.runner.layout(bucket))
        fields.num_logprobs[: len(rows)] = 0
        np.minimum(fields.token_ids, self.runner.model.config.vocab - 1, out=fields.token_ids)
        return replace(inputs, scored=None, bound=False, told=False, wide=()), fields


def _fields(ints: np.ndarray, layout: StepLayout) -> StepFields:
    return unpack(ints, layout, lambda bits: bits.view(np.float32))
