"""What single rows of a step bring to the sampler beside numbers: their tokens, and biases. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpaged.plan import RowPlan
from jaxpaged.request import Request
from jaxpaged.sampling_params import MAX_BIASES


def edits_logits(request: Request) -> bool:
    """Whether a step may have to bring something for it: a history or biases."""
    return is_penalised(request) or bool(request.params.logit_bias)


def is_penalised(request: Request) -> bool:
    params = request.params
    return bool(params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0)


def history_of(rows: Sequence[RowPlan], *, num_rows: int, max_model_len: int) -> np.ndarray | None:
    """i32[num_rows, max_model_len], a row's tokens and then -1; None where no sampling row has a penalty."""
    history: np.ndarray | None = None
    for i, row in enumerate(rows):
        if row.samples and is_penalised(row.request):
            if history is None:
                history = np.full((num_rows, max_model_len), -1, np.int32)
            tokens = row.tokens[: row.start + row.length]
            history[i, : len(tokens)] = tokens
    return history


def biases_of(
    rows: Sequence[RowPlan], *, num_rows: int, vocab: int
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """i32[num_rows, MAX_BIASES], padded with -1, and f32 of the same shape; None where no sampling row has a bias."""
    ids: np.ndarray | None = None
    values: np.ndarray | None = None
    for i, row in enumerate(rows):
        entries = row.request.params.logit_bias or {}
        if not row.samples or not entries:
            continue
        if ids is None or values is None:
            ids = np.full((num_rows, MAX_BIASES), -1, np.int32)
            values = np.zeros((num_rows, MAX_BIASES), np.float32)
        assert len(entries) <= MAX_BIASES, f"request {row.request.id!r} has {len(entries)} biases"
        assert 0 <= min(entries) <= max(entries) < vocab, f"request {row.request.id!r}: a bias is on no token"
        ids[i, : len(entries)] = list(entries)
        values[i, : len(entries)] = list(entries.values())
    return (ids, values) if ids is not None and values is not None else (None, None)
