"""Which tokens the rows of a step may draw, as bits. [host half: no jax]

Owns the form of a mask: bit t % 32 of word t // 32 says that token t may be drawn, so that 131,072 tokens are 16 KB.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def masks_of(rows: Sequence[RowPlan], *, num_rows: int, vocab: int) -> np.ndarray | None:
    """The masks of a step, i32[num_rows, mask_words]: all ones for a row that may draw any token, and for one whose
    request ended meanwhile. None where that is every row. No row may wait (`waits`).
    """
    bound = [(i, row) for i, row in enumerate(rows) if _is_bound(row)]
    if not bound:
        return None
    masks = np.full((num_rows, mask_words(vocab)), 0xFFFFFFFF, np.uint32)
    for i, row in bound:
        fill_mask(row, masks[i])
    return masks.view(np.int32)


def fill_mask(row: RowPlan, mask: np.ndarray) -> None:
    """Clear in a mask, uint32[mask_words], what the row may not draw. Several threads may fill masks at a time, but
    those of one request one after the other."""
    if not _is_bound(row):
        return
    request = row.request
    assert not waits(row), f"the mask of request {request.id!r} waits for a token"
    output = row.tokens[len(request.prompt) : row.start + row.length]
    for constraint in request.constraints:
        constraint.fill(output, mask)


def _is_bound(row: RowPlan) -> bool:
    return row.samples and bool(row.request.constraints) and row.request.state is not RequestState.FINISHED
