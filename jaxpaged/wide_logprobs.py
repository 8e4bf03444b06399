"""Logprobs that the sampler does not give: of more tokens than it looks at, or of tokens that a request names.

A row that asks for them costs a vocabulary of float32 until its step is committed; other rows cost nothing.
[device half]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxpaged.request import Logprob, SamplingParams
from jaxpaged.scoring import by_token

WIDE_ROWS = 8
"""Rows that the program picks at a time."""


def pick_logits(logits: Array, places: Array) -> tuple[Array, Array]:
    """The rows at these places, i32[R], of a step's logits f32[S, V], and what makes log probabilities of them where it
    is taken off: f32[R, V] and f32[R]. Logits are told apart that their log probabilities do not tell apart."""
    picked = logits.at[places].get(mode="clip")  # [R, V]
    largest = jnp.max(picked, axis=1, keepdims=True)
    denominator = largest + jnp.log(jnp.sum(jnp.exp(picked - largest), axis=1, keepdims=True))
    return picked, denominator[:, 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class WideLogprobs:
    """Those of a step, still on the device: what `pick_logits` gave for WIDE_ROWS of the rows at a time."""

    rows: tuple[int, ...]
    slices: tuple[tuple[Array, Array], ...]

    def of(self, row: int, token: int, params: SamplingParams) -> dict[int, Logprob]:
        """What a row of the step tells of the token that it drew, and of those that `params` asks for."""
        piece, place = divmod(self.rows.index(row), WIDE_ROWS)
        picked, denominators = self.slices[piece]
        logits = np.asarray(picked)[place]  # [V]
        logprobs = logits - np.asarray(denominators)[place]
        own = logits[token]
        rank = 1 + int((logits > own).sum()) + int((logits[:token] == own).sum())
        if params.logprob_token_ids is not None:
            named = {t: Logprob(logprob=float(logprobs[t])) for t in params.logprob_token_ids}
            return named | {token: Logprob(logprob=float(logprobs[token]), rank=rank)}
        assert params.logprobs is not None, "a row that asks for nothing has nothing to tell"
        count = len(logits) if params.logprobs == -1 else min(params.logprobs, len(logits))
        ids = _likeliest(logits, count)
        return by_token(token, float(logprobs[token]), rank, ids.tolist(), logprobs[ids].tolist(), count=count)


def slices_of(rows: Sequence[int]) -> Iterator[np.ndarray]:
    """The rows, i32[WIDE_ROWS] at a time, the last ones filled up with 0."""
    for first in range(0, len(rows), WIDE_ROWS):
        part = np.array(rows[first : first + WIDE_ROWS], np.int32)
        yield np.pad(part, (0, WIDE_ROWS - len(part)))


def _likeliest(logits: np.ndarray, count: int) -> np.ndarray:
    """The ids of the `count` largest, the lower id first among equals."""
    if count < len(logits):
        edge = np.partition(logits, len(logits) - count)[len(logits) - count]
        ids = np.flatnonzero(logits >= edge)  # more than `count` where some equal the edge
    else:
        ids = np.arange(len(logits))
    return ids[np.argsort(-logits[ids], kind="stable")][:count]
