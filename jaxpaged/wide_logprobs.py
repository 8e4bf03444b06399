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


def pick_logprobs(logits: Array, places: Array) -> Array:
    """Log probabilities f32[R, V] of the rows at these places, i32[R], of a step's logits f32[S, V]."""
    picked = logits.at[places].get(mode="clip")
    largest = jnp.max(picked, axis=1, keepdims=True)
    return picked - (largest + jnp.log(jnp.sum(jnp.exp(picked - largest), axis=1, keepdims=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class WideLogprobs:
    """Those of a step, still on the device: WIDE_ROWS of the rows, f32[WIDE_ROWS, V], in each slice."""

    rows: tuple[int, ...]
    slices: tuple[Array, ...]

    def of(self, row: int, token: int, params: SamplingParams) -> dict[int, Logprob]:
        """What a row of the step tells of the token that it drew, and of those that `params` asks for."""
        place = self.rows.index(row)
        logprobs = np.asarray(self.slices[place // WIDE_ROWS])[place % WIDE_ROWS]
        own = logprobs[token]
        rank = 1 + int((logprobs > own).sum()) + int((logprobs[:token] == own).sum())
        if params.logprob_token_ids is not None:
            named = {t: Logprob(logprob=float(logprobs[t])) for t in params.logprob_token_ids}
            return named | {token: Logprob(logprob=float(own), rank=rank)}
        assert params.logprobs is not None, "a row that asks for nothing has nothing to tell"
        count = len(logprobs) if params.logprobs == -1 else min(params.logprobs, len(logprobs))
        ids = _likeliest(logprobs, count)
        return by_token(token, float(own), rank, ids.tolist(), logprobs[ids].tolist(), count=count)


def slices_of(rows: Sequence[int]) -> Iterator[np.ndarray]:
    """The rows, i32[WIDE_ROWS] at a time, the last ones filled up with 0."""
    for first in range(0, len(rows), WIDE_ROWS):
        part = np.array(rows[first : first + WIDE_ROWS], np.int32)
        yield np.pad(part, (0, WIDE_ROWS - len(part)))


def _likeliest(logprobs: np.ndarray, count: int) -> np.ndarray:
    """The ids of the `count` largest, the lower id first among equals."""
    if count < len(logprobs):
        edge = np.partition(logprobs, len(logprobs) - count)[len(logprobs) - count]
        ids = np.flatnonzero(logprobs >= edge)  # more than `count` where some equal the edge
    else:
        ids = np.arange(len(logprobs))
    return ids[np.argsort(-logprobs[ids], kind="stable")][:count]
