"""A step plan as arrays: two packed vectors that cross to the device in one transfer. [host half: no jax]

Owns the layout of the step's inputs. `pack` writes it on the host, `unpack` reads it where the step is traced; both go
through the same slices, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxpaged.buckets import Bucket
from jaxpaged.request import MAX_BIASES, Request
from jaxpaged.scheduler import RowPlan, StepPlan

_ROW_INTS = 6  # kv_lens, sample_at, top_k, seeds, num_logprobs, prompt_lens
_ROW_FLOATS = 6  # temperature, top_p, min_p, presence, frequency, repetition


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLayout:
    """Sizes of a step's packed vectors: the bucket's T and S, `table_width` W, `num_groups` KV groups."""

    bucket: Bucket
    table_width: int
    num_groups: int

    @property
    def num_ints(self) -> int:
        tokens, rows = self.bucket.tokens, self.bucket.rows
        return tokens + (rows + 1) + _ROW_INTS * rows + self.num_groups * rows * self.table_width

    @property
    def num_floats(self) -> int:
        return _ROW_FLOATS * self.bucket.rows


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """What a step reads. ints: i32[num_ints], floats: f32[num_floats], both as `StepLayout` says.

    history: i32[S, max_model_len], a row's tokens and then -1; None where no sampling row has a penalty.
    bias_ids: i32[S, MAX_BIASES], padded with -1, and bias_values: f32[S, MAX_BIASES]; None where no row has a bias.
    """

    ints: np.ndarray
    floats: np.ndarray
    history: np.ndarray | None
    bias_ids: np.ndarray | None
    bias_values: np.ndarray | None


class StepFields(NamedTuple):
    """The fields of a step's packed vectors: views of numpy arrays, or slices of traced ones. Padding in brackets."""

    token_ids: Any  # i32[T], all rows' tokens one after the other [0]
    cu_q_lens: Any  # i32[S+1], row i owns token_ids[cu_q_lens[i] : cu_q_lens[i+1]] [the last one again]
    kv_lens: Any  # i32[S], tokens in the cache after the step's tokens are written [0]
    sample_at: Any  # i32[S], place in token_ids of the row's last token [0]
    top_k: Any  # i32[S], 0 keeps all [0]
    seeds: Any  # i32[S], the bits of a uint32 [0]
    num_logprobs: Any  # i32[S], -1 for none [-1]
    prompt_lens: Any  # i32[S] [0]
    block_tables: tuple[Any, ...]  # one i32[S, W] per group, unused entries 0 [0]
    temperature: Any  # f32[S], 0 is greedy [0]
    top_p: Any  # f32[S] [1]
    min_p: Any  # f32[S] [0]
    presence: Any  # f32[S] [0]
    frequency: Any  # f32[S] [0]
    repetition: Any  # f32[S] [1]


def unpack(ints: Any, floats: Any, layout: StepLayout) -> StepFields:
    """Slice the packed vectors i32[num_ints] and f32[num_floats]; numpy or traced arrays."""
    tokens, rows, width = layout.bucket.tokens, layout.bucket.rows, layout.table_width
    per_row = tokens + rows + 1
    tables = per_row + _ROW_INTS * rows
    kv_lens, sample_at, top_k, seeds, num_logprobs, prompt_lens = (
        ints[per_row + i * rows : per_row + (i + 1) * rows] for i in range(_ROW_INTS)
    )
    temperature, top_p, min_p, presence, frequency, repetition = (
        floats[i * rows : (i + 1) * rows] for i in range(_ROW_FLOATS)
    )
    return StepFields(
        token_ids=ints[:tokens],
        cu_q_lens=ints[tokens:per_row],
        kv_lens=kv_lens,
        sample_at=sample_at,
        top_k=top_k,
        seeds=seeds,
        num_logprobs=num_logprobs,
        prompt_lens=prompt_lens,
        block_tables=tuple(
            ints[tables + i * rows * width : tables + (i + 1) * rows * width].reshape(rows, width)  # [S, W]
            for i in range(layout.num_groups)
        ),
        temperature=temperature,
        top_p=top_p,
        min_p=min_p,
        presence=presence,
        frequency=frequency,
        repetition=repetition,
    )


def pack(plan: StepPlan, layout: StepLayout, *, max_model_len: int, vocab_size: int) -> StepInputs:
    """Write a plan into the packed vectors of its bucket.

    A row whose request ended since the plan has an empty block table: it reads and writes the null block only. Every
    token id and every length is asserted to be in bounds, since a device clamps bad indices in silence.
    """
    assert plan.bucket == layout.bucket, f"a plan for {plan.bucket} does not fit a layout for {layout.bucket}"
    ints = np.zeros(layout.num_ints, np.int32)
    floats = np.zeros(layout.num_floats, np.float32)
    fields = unpack(ints, floats, layout)
    requests = [row.request for row in plan.rows]
    _pack_tokens(plan.rows, fields, max_model_len=max_model_len, vocab_size=vocab_size)
    _pack_tables(requests, fields, layout)
    _pack_options(requests, floats, fields, layout)
    bias_ids, bias_values = _biases(plan.rows, layout.bucket.rows, vocab_size)
    return StepInputs(
        ints=ints,
        floats=floats,
        history=_history(plan.rows, layout.bucket.rows, max_model_len),
        bias_ids=bias_ids,
        bias_values=bias_values,
    )


def _pack_tokens(rows: tuple[RowPlan, ...], fields: StepFields, *, max_model_len: int, vocab_size: int) -> None:
    num_rows = len(rows)
    counts = [row.count for row in rows]
    ends = fields.cu_q_lens[1 : num_rows + 1]
    np.cumsum(counts, out=ends)
    num_tokens = int(ends[-1])
    fields.cu_q_lens[num_rows + 1 :] = num_tokens
    num_single = sum(count == 1 for count in counts)
    assert all(count > 1 for count in counts[num_single:]), "rows with one token come first"
    token_ids = [row.request.tokens[row.start] for row in rows[:num_single]]
    for row in rows[num_single:]:
        token_ids += row.request.tokens[row.start : row.start + row.count]
    assert len(token_ids) == num_tokens, "a row computes tokens that its request does not have"
    packed = fields.token_ids[:num_tokens]
    packed[:] = token_ids
    assert packed.min() >= 0, f"token id {packed.min()} is negative"
    assert packed.max() < vocab_size, f"token id {packed.max()} is not below {vocab_size}"
    kv_lens = fields.kv_lens[:num_rows]
    kv_lens[:] = [row.start + row.count for row in rows]
    assert kv_lens.max() <= max_model_len, f"a row of {kv_lens.max()} tokens, at most {max_model_len}"
    fields.sample_at[:num_rows] = ends - 1


def _pack_tables(requests: list[Request], fields: StepFields, layout: StepLayout) -> None:
    width = layout.table_width
    for group, tables in enumerate(fields.block_tables):
        for i, request in enumerate(requests):
            if request.block_ids:
                table = request.block_ids[group]
                assert len(table) <= width, f"request {request.id!r} has {len(table)} blocks, at most {width}"
                tables[i, : len(table)] = table  # an int32 array: copied as a buffer


def _pack_options(requests: list[Request], floats: np.ndarray, fields: StepFields, layout: StepLayout) -> None:
    num_rows, rows = len(requests), layout.bucket.rows
    params = [request.params for request in requests]
    by_field = floats.reshape(_ROW_FLOATS, rows)
    by_field[:, :num_rows] = np.array(
        [
            (p.temperature, p.top_p, p.min_p, p.presence_penalty, p.frequency_penalty, p.repetition_penalty)
            for p in params
        ],
        np.float32,
    ).T
    fields.top_p[num_rows:] = 1.0
    fields.repetition[num_rows:] = 1.0
    fields.top_k[:num_rows] = [p.top_k for p in params]
    fields.seeds[:num_rows] = np.array([request.seed for request in requests], np.uint32).view(np.int32)
    fields.num_logprobs[:num_rows] = [-1 if p.logprobs is None else p.logprobs for p in params]
    fields.num_logprobs[num_rows:] = -1
    fields.prompt_lens[:num_rows] = [len(request.prompt) for request in requests]


def _history(rows: tuple[RowPlan, ...], num_rows: int, max_model_len: int) -> np.ndarray | None:
    history: np.ndarray | None = None
    for i, row in enumerate(rows):
        params = row.request.params
        penalised = params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0
        if row.samples and penalised:
            if history is None:
                history = np.full((num_rows, max_model_len), -1, np.int32)
            tokens = row.request.tokens
            history[i, : len(tokens)] = tokens
    return history


def _biases(
    rows: tuple[RowPlan, ...], num_rows: int, vocab_size: int
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    ids: np.ndarray | None = None
    values: np.ndarray | None = None
    for i, row in enumerate(rows):
        request = row.request
        biases = request.params.logit_bias
        barred: Iterable[int] = ()
        if request.params.min_tokens > request.num_output:
            barred = [token for token in sorted(request.stop_ids) if token < vocab_size]  # others are never drawn
        if not row.samples or not (biases or barred):
            continue
        if ids is None or values is None:
            ids = np.full((num_rows, MAX_BIASES), -1, np.int32)
            values = np.zeros((num_rows, MAX_BIASES), np.float32)
        entries = {**(biases or {}), **dict.fromkeys(barred, -np.inf)}
        assert len(entries) <= MAX_BIASES, f"request {request.id!r} has {len(entries)} biases"
        assert 0 <= min(entries) <= max(entries) < vocab_size, f"request {request.id!r}: a bias is on no token"
        ids[i, : len(entries)] = list(entries)
        values[i, : len(entries)] = list(entries.values())
    return (ids, values) if ids is not None and values is not None else (None, None)
