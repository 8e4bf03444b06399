"""A step plan as one packed vector that crosses to the device in one transfer. [host half: no jax]

Owns the layout of the step's inputs: `Packer` writes it on the host, `unpack` reads it where the step is traced; both
go through the same slices, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxpaged.blocks import NULL_BLOCK
from jaxpaged.buckets import Bucket
from jaxpaged.plan import RowPlan, StepPlan
from jaxpaged.request import PENDING, Request
from jaxpaged.row_options import biases_of, edits_logits, history_of
from jaxpaged.scored_tokens import ScoredTokens

_INT_OPTIONS = ("top_k", "seeds", "num_logprobs", "prompt_lens")
_FLOAT_OPTIONS = ("temperature", "top_p", "min_p", "presence", "frequency", "repetition")
_NUM_OPTIONS = len(_INT_OPTIONS) + len(_FLOAT_OPTIONS)
# bits of what a request may ask for, which a step need not look for where no seat has it: a history or biases, masks,
# the prompt's scores, logprobs
_EDITS, _CONSTRAINTS, _SCORES, _LOGPROBS = 1, 2, 4, 8
COPIES = 16
"""Pairs of blocks that one program copies: a step has none or few, and more are copied by further calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLayout:
    """Sizes of a step's packed vector: the bucket's T and S, `table_width` W, `num_groups` KV groups."""

    bucket: Bucket
    table_width: int
    num_groups: int

    @property
    def num_ints(self) -> int:
        tokens, rows = self.bucket.tokens, self.bucket.rows
        return tokens + (rows + 1) + (4 + _NUM_OPTIONS) * rows + self.num_groups * rows * self.table_width


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """What a step reads. ints: i32[num_ints], as `StepLayout` says.

    history: i32[S, max_model_len], a row's tokens and then -1; None where no sampling row has a penalty.
    bias_ids: i32[S, MAX_BIASES], padded with -1, and bias_values: f32[S, MAX_BIASES]; None where no row has a bias.
    scored: None where the step scores no prompt.
    bound: whether rows have constraints, so that masks are to be made before the draw. told: whether rows ask for
    logprobs, and wide: those whose logprobs the sampler does not give.
    copies: i32[2, COPIES] each, sources and destinations of blocks to be copied before the step, one after the other,
    padded with the null block.
    """

    ints: np.ndarray
    history: np.ndarray | None
    bias_ids: np.ndarray | None
    bias_values: np.ndarray | None
    scored: ScoredTokens | None = None
    bound: bool = False
    told: bool = False
    wide: tuple[int, ...] = ()
    copies: tuple[np.ndarray, ...] = ()


class StepFields(NamedTuple):
    """The fields of a step's packed vector: views of numpy arrays, or slices of traced ones. Padding in brackets."""

    token_ids: Any  # i32[T], all rows' tokens one after the other; PENDING: the last one drawn at the row's seat [0]
    cu_q_lens: Any  # i32[S+1], row i owns token_ids[cu_q_lens[i] : cu_q_lens[i+1]] [the last one again]
    kv_lens: Any  # i32[S], tokens in the cache after the step's tokens are written [0]
    seats: Any  # i32[S], where the row's drawn token is remembered [the number of seats]
    sampled_at: Any  # i32[S], which of the T tokens a row draws the next one after [0]
    positions: Any  # i32[S], of the drawn token in its request [0]
    block_tables: tuple[Any, ...]  # one i32[S, W] per group, unused entries and those behind its window 0 [0]
    top_k: Any  # i32[S], 0 keeps all [0]
    seeds: Any  # i32[S], the bits of a uint32 [0]
    num_logprobs: Any  # i32[S], -1 for none [-1]
    prompt_lens: Any  # i32[S] [0]
    temperature: Any  # f32[S], 0 is greedy [0]
    top_p: Any  # f32[S] [1]
    min_p: Any  # f32[S] [0]
    presence: Any  # f32[S] [0]
    frequency: Any  # f32[S] [0]
    repetition: Any  # f32[S] [1]


def unpack(ints: Any, layout: StepLayout, as_floats: Callable[[Any], Any]) -> StepFields:
    """Slice the packed vector i32[num_ints], numpy or traced. as_floats: reads int32 as the float32 of their bits."""
    tokens, rows, width = layout.bucket.tokens, layout.bucket.rows, layout.table_width
    at = tokens + rows + 1
    of_rows = [ints[at + i * rows : at + (i + 1) * rows] for i in range(4)]
    at += 4 * rows
    options = [ints[at + i * rows : at + (i + 1) * rows] for i in range(_NUM_OPTIONS)]
    at += _NUM_OPTIONS * rows
    tables = ints[at:].reshape(layout.num_groups, rows, width)
    return StepFields._make(
        (
            ints[:tokens],
            ints[tokens : tokens + rows + 1],
            *of_rows,
            tuple(tables[group] for group in range(layout.num_groups)),
            *options[: len(_INT_OPTIONS)],
            *map(as_floats, options[len(_INT_OPTIONS) :]),
        )
    )


class Packer:
    """Writes plans into the packed vectors of their buckets. Not thread-safe.

    What a request brings along, its options and its block table, is kept by seat from step to step, so that a step
    costs the host what changed and one copy. Every token id and every length is asserted to be in bounds, since a
    device clamps bad indices in silence.
    """

    def __init__(
        self, *, num_seats: int, table_width: int, groups: Sequence[int], max_model_len: int, vocab_size: int
    ) -> None:
        """groups: of the tables that requests have, those that the model reads, in the order of its own groups."""
        self._max_model_len, self._vocab_size = max_model_len, vocab_size
        self._num_seats = num_seats
        # the last place is nobody's: that of padding rows, and of requests that ended since the plan (seat -1)
        self._options = np.zeros((_NUM_OPTIONS, num_seats + 1), np.int32)
        self._options[:, -1] = _option_bits()
        self._groups = tuple(groups)
        self._tables = np.zeros((len(self._groups), num_seats + 1, table_width), np.int32)
        self._known: list[object] = [None] * num_seats  # the block tables that a seat's copy was made of
        self._edits = [0] * num_seats  # the edit of them that was copied last
        self._lengths = [0] * num_seats  # entries of each table that were copied
        self._asks = np.zeros(num_seats + 1, np.uint8)  # what its request asks for: see `_EDITS`

    def pack(self, plan: StepPlan, layout: StepLayout) -> StepInputs:
        """The inputs of a step. A row whose request ended since the plan reads and writes the null block only."""
        assert plan.bucket == layout.bucket, f"a plan for {plan.bucket} does not fit a layout for {layout.bucket}"
        ints = np.empty(layout.num_ints, np.int32)
        fields = unpack(ints, layout, lambda bits: bits.view(np.float32))
        rows, num_rows = plan.rows, layout.bucket.rows
        has_drafts = self._pack_tokens(rows, fields)
        seats = np.full(num_rows, self._num_seats, np.intp)
        seats[: len(rows)] = [self._seat_of(row.request) for row in rows]
        seats[seats < 0] = self._num_seats
        fields.seats[:] = seats
        if has_drafts:  # what they draw is nobody's last token yet
            fields.seats[[i for i, row in enumerate(rows) if row.draft]] = self._num_seats
        first = layout.bucket.tokens + (num_rows + 1) + 4 * num_rows
        options = ints[first : first + _NUM_OPTIONS * num_rows].reshape(_NUM_OPTIONS, num_rows)
        np.take(self._options, seats, axis=1, out=options, mode="clip")
        for group, table in enumerate(fields.block_tables):
            np.take(self._tables[group], seats, axis=0, out=table, mode="clip")
        asks = int(np.bitwise_or.reduce(self._asks[seats]))
        edits = bool(asks & _EDITS)
        bias_ids, bias_values = biases_of(rows, num_rows=num_rows, vocab=self._vocab_size) if edits else (None, None)
        return StepInputs(
            ints=ints,
            history=history_of(rows, num_rows=num_rows, max_model_len=self._max_model_len) if edits else None,
            bias_ids=bias_ids,
            bias_values=bias_values,
            scored=ScoredTokens.of(plan) if asks & _SCORES else None,
            bound=bool(asks & _CONSTRAINTS),
            told=bool(asks & _LOGPROBS),
            wide=_wide_rows(rows) if asks & _LOGPROBS else (),
            copies=_copies(plan.copies) if plan.copies else (),
        )

    def _pack_tokens(self, rows: Sequence[RowPlan], fields: StepFields) -> bool:
        """Which tokens the rows have, and where they stand. Whether there are drafted rows."""
        num_rows = len(rows)
        requests, starts, counts, _, drafts = zip(*rows, strict=True)
        lengths = np.array(counts, np.int32)
        ends = fields.cu_q_lens[1 : num_rows + 1]
        fields.cu_q_lens[0] = 0
        np.cumsum(lengths, out=ends)
        num_tokens = int(ends[-1])
        fields.cu_q_lens[num_rows + 1 :] = num_tokens
        num_single = counts.count(1)
        assert 1 not in counts[num_single:], "rows with one token come first"
        assert 0 not in counts[: num_rows - counts.count(0)], "rows without come last"
        single = zip(requests[:num_single], starts, strict=False)
        has_drafts = any(drafts)
        if has_drafts:
            token_ids = [d[-1] if d else r.tokens[start] for (r, start), d in zip(single, drafts, strict=False)]
        else:
            token_ids = [request.tokens[start] for request, start in single]
        for row in rows[num_single:]:
            token_ids += row.request.tokens[row.start : row.start + row.length]
        assert len(token_ids) == num_tokens, "a row computes tokens that its request does not have"
        packed = fields.token_ids[:num_tokens]
        packed[:] = token_ids
        fields.token_ids[num_tokens:] = 0
        assert packed.min() >= PENDING, f"token id {packed.min()} is negative"
        assert PENDING not in packed[num_single:], "a chunk holds a token that is not drawn yet"
        assert packed.max() < self._vocab_size, f"token id {packed.max()} is not below {self._vocab_size}"
        np.add(starts, lengths, out=fields.positions[:num_rows])
        fields.positions[num_rows:] = 0
        longest = fields.positions.max()
        assert longest <= self._max_model_len, f"a row of {longest} tokens, at most {self._max_model_len}"
        fields.kv_lens[:] = fields.positions
        fields.sampled_at[:num_rows] = ends - 1
        fields.sampled_at[num_rows:] = 0
        if not counts[-1]:
            self._pack_followers(rows, fields)
        return has_drafts

    def _pack_followers(self, rows: Sequence[RowPlan], fields: StepFields) -> None:
        """Rows without a token: to attention they are padding, and they sample where their leaders do."""
        leaders = {id(row.request): i for i, row in enumerate(rows) if row.length}
        for i, row in enumerate(rows):
            if not row.length:
                leader = leaders.get(id(row.request.leader))  # none, where it ended since the plan
                fields.kv_lens[i] = 0
                fields.sampled_at[i] = 0 if leader is None else fields.sampled_at[leader]

    def _seat_of(self, request: Request) -> int:
        """The request's seat, with all that is kept there up to date."""
        seat = request.seat
        if seat < 0:
            return seat
        tables = request.block_ids
        if self._known[seat] is not tables:  # every admission begins new tables, and so does every tail of its own
            self._known[seat], self._lengths[seat], self._edits[seat] = tables, 0, -1
            self._options[:, seat] = _option_bits(request)
            self._tables[:, seat] = 0
            self._asks[seat] = _asks_of(request)
        if request.table_edits != self._edits[seat] and tables:  # a follower has none yet
            self._edits[seat] = request.table_edits
            self._copy_tables(request, seat)
        return seat

    def _copy_tables(self, request: Request, seat: int) -> None:
        """Take over what was added to the request's tables, and clear what fell behind a window since."""
        tables = request.block_ids
        length, known = len(tables[0]), self._lengths[seat]
        width = self._tables.shape[2]
        assert length <= width, f"request {request.id!r} has {length} blocks, at most {width}"
        for group, mine in zip(self._groups, self._tables[:, seat], strict=True):
            table, start = tables[group], request.table_starts[group]
            mine[known:length] = table[known:length]
            if start:
                mine[:start] = NULL_BLOCK
        self._lengths[seat] = length


def _asks_of(request: Request) -> int:
    asks = _EDITS if edits_logits(request) else 0
    asks |= _CONSTRAINTS if request.constraints else 0
    asks |= _SCORES if request.num_scored < request.num_to_score else 0
    return asks | (_LOGPROBS if request.params.wants_logprobs else 0)


def _wide_rows(rows: Sequence[RowPlan]) -> tuple[int, ...]:
    """Those whose logprobs the sampler does not give."""
    asks = [row.samples and row.request.params.wants_logprobs for row in rows]
    return tuple(i for i, row in enumerate(rows) if asks[i] and row.request.params.num_likeliest is None)


def _copies(pairs: Sequence[tuple[int, int]]) -> tuple[np.ndarray, ...]:
    packed: list[np.ndarray] = []
    for first in range(0, len(pairs), COPIES):
        some = np.full((2, COPIES), NULL_BLOCK, np.int32)
        for i, pair in enumerate(pairs[first : first + COPIES]):
            some[:, i] = pair
        packed.append(some)
    return tuple(packed)


def _option_bits(request: Request | None = None) -> np.ndarray:
    """i32[options] of a request, or of nobody: int32 as they are, float32 as their bits."""
    if request is None:
        ints, floats = [0, 0, -1, 0], [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    else:
        p = request.params
        logprobs = -1 if p.num_likeliest is None else p.num_likeliest
        ints = [p.top_k, request.seed, logprobs, len(request.prompt)]
        floats = [p.temperature, p.top_p, p.min_p, p.presence_penalty, p.frequency_penalty, p.repetition_penalty]
    bits = np.array(ints, np.int64).astype(np.uint32)  # -1 and seeds above 2**31 keep their bits
    return np.concatenate([bits, np.array(floats, np.float32).view(np.uint32)]).view(np.int32)
