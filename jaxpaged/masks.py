"""Which tokens the rows of a step may draw, as bits. [host half: no jax]

Owns the form of a mask: bit t % 32 of word t // 32 says that token t may be drawn, so that 131,072 tokens are 16 KB.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from jaxpaged.plan import RowPlan
from jaxpaged.request import PENDING, RequestState


def mask_words(vocab: int) -> int:
    """Words of 32 bits of a mask over so many tokens."""
    return -(-vocab // 32)


def mask_of(tokens: Iterable[int], *, vocab: int) -> np.ndarray:
    """uint32[mask_words]: the bits of these tokens set, of no other. Tokens past the vocabulary have none."""
    ids = np.fromiter(tokens, np.int64)
    bits = np.zeros(32 * mask_words(vocab), bool)
    bits[ids[(ids >= 0) & (ids < vocab)]] = True
    return np.packbits(bits, bitorder="little").view(np.uint32)


def waits(row: RowPlan) -> bool:
    """Whether the row's mask depends on a token that a step in flight draws: it can be made after that one's commit."""
    request = row.request
    if not row.samples or not request.constraints or request.state is RequestState.FINISHED:
        return False
    is_pending = not row.draft and request.tokens[row.start + row.length - 1] == PENDING
    return is_pending and any(constraint.follows for constraint in request.constraints)


def fill_mask(row: RowPlan, mask: np.ndarray) -> None:
    """Clear in a mask, uint32[mask_words], what the row may not draw. Several threads may fill masks at a time, but
    those of one request one after the other."""
    if not is_bound(row):
        return
    request = row.request
    assert not waits(row), f"the mask of request {request.id!r} waits for a token"
    known = request.tokens[len(request.prompt) : row.start + row.length - len(row.draft)]
    output = [*known, *row.draft]  # not `row.tokens`: since the launch a token that is drawn stands before the guesses
    for constraint in request.constraints:
        constraint.fill(output, mask)


def is_bound(row: RowPlan) -> bool:
    """Whether the row draws a token, and not any."""
    return row.samples and bool(row.request.constraints) and row.request.state is not RequestState.FINISHED
