"""How far logits are from the oracle's, place by place, and what that does to choices and probabilities. Pure numpy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_SLICE_BYTES = 2**26
"""Of float64 that a slice of places takes: large vocabularies are not widened at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Over all places of a text. Logarithms are natural; the oracle's largest logit is that of all places, by size.

    places: how many were compared. max_error: the largest difference of a logit; relative_error: the same, relative to
    the oracle's largest logit. worst_place: where it is, counted over the places. mean_error: the mean difference,
    relative to the oracle's largest logit. agreement: share of places with the same likeliest token. perplexity,
    oracle_perplexity: of the tokens that follow. mean_kl: divergence of our distribution from the oracle's. finite:
    whether every logit of ours is a number; the other fields are infinite or nan where not.
    """

    places: int
    max_error: float
    relative_error: float
    worst_place: int
    mean_error: float
    agreement: float
    perplexity: float
    oracle_perplexity: float
    mean_kl: float
    finite: bool

    @property
    def perplexity_difference(self) -> float:
        """Ours less the oracle's."""
        return self.perplexity - self.oracle_perplexity


@np.errstate(invalid="ignore", over="ignore")  # of what is no number
def compare(ours: np.ndarray, oracle: np.ndarray, following: np.ndarray) -> Figures:
    """ours, oracle f32[n, V]: logits of the same places; following i32[n]: the token that stands after each."""
    assert ours.shape == oracle.shape, f"{ours.shape} logits beside {oracle.shape}"
    places = len(ours)
    errors, means = np.empty(places), np.empty(places)
    agree, nll, oracle_nll, kl = (np.empty(places) for _ in range(4))
    for part in _slices(*ours.shape):
        mine, theirs = ours[part].astype(np.float64), oracle[part].astype(np.float64)
        apart = np.abs(mine - theirs)
        errors[part], means[part] = apart.max(axis=1), apart.mean(axis=1)
        agree[part] = mine.argmax(axis=1) == theirs.argmax(axis=1)
        log_mine, log_theirs = _log_softmax(mine), _log_softmax(theirs)
        rows = np.arange(len(mine))
        nll[part], oracle_nll[part] = -log_mine[rows, following[part]], -log_theirs[rows, following[part]]
        kl[part] = np.sum(np.exp(log_theirs) * (log_theirs - log_mine), axis=1)
    largest = float(np.abs(oracle).max()) or 1.0
    # a NaN is the largest error there is
    worst = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
    return Figures(
        places=places,
        max_error=float(errors[worst]),
        relative_error=float(errors[worst]) / largest,
        worst_place=worst,
        mean_error=float(means.mean()) / largest,
        agreement=float(agree.mean()),
        perplexity=_exp(float(nll.mean())),
        oracle_perplexity=_exp(float(oracle_nll.mean())),
        mean_kl=float(kl.mean()),
        finite=bool(np.isfinite(ours).all()),
    )


def _slices(places: int, vocab: int) -> Iterator[slice]:
    step = max(1, _SLICE_BYTES // (8 * vocab))
    for start in range(0, places, step):
        yield slice(start, min(start + step, places))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
