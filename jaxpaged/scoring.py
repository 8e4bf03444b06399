"""Log probabilities of prompt tokens: what is traced, and what it says of a step's tokens. [device half]

A step always gives its hidden vectors. Where one of its rows asks for these log probabilities, R of them at a time go
through the head once more (`score_rows`), in a program that all buckets share; other steps do not run it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxpaged.models.decoder import Graph, unflatten
from jaxpaged.request import Logprob
from jaxpaged.sampler import logprobs_of
from jaxpaged.scored_tokens import ScoredTokens


class Scored(NamedTuple):
    """What the model says of R tokens, in the words of `sampler.Sampled`."""

    finite: Array  # bool[R]: all logits are
    logprob: Array  # f32[R]
    rank: Array  # i32[R]
    top_ids: Array  # i32[R, min(20, V)]
    top_logprobs: Array  # f32[R, min(20, V)]


def pick(hidden: Array, places: Array) -> Array:
    """Hidden vectors f32[R, E] from these places, i32[R], of a step's f32[T, E]."""
    return hidden.at[places].get(mode="clip")


def score(leaves: tuple[Array, ...], hidden: Array, targets: Array, *, graphdef: Graph) -> Scored:
    """What hidden vectors f32[R, E] predict, and so say of the tokens i32[R] that followed."""
    logits = unflatten(graphdef, leaves).logits(hidden)
    logprob, rank, top_ids, top_logprobs = logprobs_of(logits, targets)
    return Scored(
        finite=jnp.all(jnp.isfinite(logits), axis=1),
        logprob=logprob,
        rank=rank,
        top_ids=top_ids,
        top_logprobs=top_logprobs,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepScores:
    """What a step says of the prompt tokens in it, still on the device: R of them in each slice."""

    tokens: ScoredTokens
    slices: tuple[Scored, ...]

    def finite(self) -> list[bool]:
        """Of each row of the plan, whether all its scored places are."""
        of_token = np.concatenate([np.asarray(scored.finite) for scored in self.slices])
        ends = np.cumsum(self.tokens.counts)
        return [bool(of_token[end - count : end].all()) for end, count in zip(ends, self.tokens.counts, strict=True)]

    def logprobs(self, wanted: Sequence[int | None]) -> list[list[dict[int, Logprob]]]:
        """Of each row's tokens their logprobs, and the `wanted` likeliest ones, by token id. Waits for the device."""
        most = max(count or 0 for count, scored in zip(wanted, self.tokens.counts, strict=True) if scored)
        logprobs, ranks, ids, likeliest = (
            np.concatenate([np.asarray(getattr(scored, name)) for scored in self.slices])
            for name in ("logprob", "rank", "top_ids", "top_logprobs")
        )
        columns = zip(
            self.tokens.targets.tolist(),
            logprobs.tolist(),
            ranks.tolist(),
            ids[:, :most].tolist(),
            likeliest[:, :most].tolist(),
            strict=False,  # padding ends the last slice
        )
        return [
            [by_token(*next(columns), count=count or 0) for _ in range(scored)]
            for count, scored in zip(wanted, self.tokens.counts, strict=True)
        ]


def by_token(
    token: int, logprob: float, rank: int, ids: Sequence[int], logprobs: Sequence[float], *, count: int
) -> dict[int, Logprob]:
    """The logprobs of the `count` likeliest tokens, of which ids and logprobs tell in order, and of `token`."""
    found = {ids[i]: Logprob(logprob=logprobs[i], rank=i + 1) for i in range(min(count, len(ids)))}
    found.setdefault(token, Logprob(logprob=logprob, rank=rank))
    return found
