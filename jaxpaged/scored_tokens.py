"""The prompt tokens that a step scores, for requests with `prompt_logprobs`. [host half: no jax]

Each is scored once in its request's life: what a launched step scores is not scored again after a preemption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxpaged.plan import StepPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTokens:
    """n prompt tokens, those of a plan's rows one after the other; counts: how many are of each row.

    targets: i32[n], the tokens. places: i32[n], where in the step the token before each of them stands: what the model
    computes there predicts it.
    """

    counts: tuple[int, ...]
    targets: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, plan: StepPlan) -> ScoredTokens | None:
        """What a plan scores that is not launched yet; None where that is nothing."""
        counts: list[int] = []
        targets: list[int] = []
        places: list[int] = []
        place = 0  # of the row's first token in the step
        for row in plan.rows:
            request, start, length = row.request, row.start, row.length
            first, end = request.num_scored, min(start + length, request.num_to_score)
            # it may have ended since the plan; a follower is told its leader's
            count = max(0, end - first) if length and request.seat >= 0 else 0
            assert not count or start <= first, f"tokens {first} to {start} of request {request.id!r} are not scored"
            counts.append(count)
            targets += request.prompt[first + 1 : first + 1 + count]
            places += range(place + first - start, place + first - start + count)
            place += length
        if not targets:
            return None
        return cls(counts=tuple(counts), targets=np.array(targets, np.int32), places=np.array(places, np.int32))

    def slices(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """places and targets, i32[size] at a time, the last ones filled up with 0."""
        for first in range(0, len(self.targets), size):
            places, targets = self.places[first : first + size], self.targets[first : first + size]
            missing = (0, size - len(places))
            yield np.pad(places, missing), np.pad(targets, missing)
