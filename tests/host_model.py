"""A model and a KV pool that need no device: what the scheduler's tests run instead of a runner.

The state of a position is a hash of all tokens up to it, and each block slot remembers the state that was written
there. A step reads every earlier position of a row through the packed block table, so a wrong table, a stale prefix hit
or a lost write is a wrong state: it fails at once, and the drawn token would differ as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from jaxpaged.batch import StepLayout, pack, unpack
from jaxpaged.request import FinishReason, Request, SamplingParams
from jaxpaged.scheduler import Scheduler, StepPlan

VOCAB = 7


def advance(state: int, token: int) -> int:
    return (state * 6364136223846793005 + (token + 1) * 1442695040888963407) & 0xFFFFFFFFFFFF


def states_of(tokens: Sequence[int], salt: str) -> list[int]:
    """The state after each token. The salt is part of it: namespaces must never share a block."""
    state, states = sum(salt.encode()) + 1, []
    for token in tokens:
        state = advance(state, token)
        states.append(state)
    return states


def draw(state: int) -> int:
    return (state >> 20) % VOCAB


def run_alone(request: Request) -> tuple[list[int], FinishReason, int | None]:
    """Output, finish reason and stop reason of a request with nobody beside it: no scheduler involved."""
    output: list[int] = []
    state = states_of(request.prompt, request.salt)[-1]
    while True:
        token = draw(state)
        output.append(token)
        if token in request.stop_ids and len(output) >= request.params.min_tokens:
            return output, FinishReason.STOP, token if token in (request.params.stop_token_ids or ()) else None
        if len(output) == request.max_tokens:
            return output, FinishReason.LENGTH, None
        state = advance(state, token)


def make_request(
    name: str,
    prompt: Sequence[int],
    *,
    max_tokens: int = 4,
    min_tokens: int = 0,
    stop_token_ids: Sequence[int] = (),
    eos: Sequence[int] = (),
    salt: str = "",
) -> Request:
    params = SamplingParams(max_tokens=max_tokens, min_tokens=min_tokens, stop_token_ids=list(stop_token_ids))
    return Request(
        id=name,
        prompt=tuple(prompt),
        params=params,
        seed=0,
        max_tokens=max_tokens,
        stop_ids=frozenset([*stop_token_ids, *eos]),
        salt=salt,
    )


class ShadowModel:
    """Executes step plans against shadow pools: per group and block, the states written to its slots."""

    def __init__(self, scheduler: Scheduler, *, block_size: int, num_blocks: Sequence[int], max_model_len: int) -> None:
        self.scheduler = scheduler
        self.block_size = block_size
        self.max_model_len = max_model_len
        self.table_width = -(-max_model_len // block_size)
        self.slots = [[[0] * block_size for _ in range(blocks)] for blocks in num_blocks]  # [group][block][offset]
        self._states: dict[str, list[int]] = {}  # by request id: never used twice

    def states(self, request: Request) -> list[int]:
        """States of all the request's tokens, kept as it grows."""
        known = self._states.get(request.id)
        if known is None:
            known = self._states[request.id] = states_of(request.tokens, request.salt)
        for token in request.tokens[len(known) :]:
            known.append(advance(known[-1], token))
        return known

    def execute(self, plan: StepPlan) -> list[int]:
        """Pack, write and read like a device would; returns a token per row."""
        groups = len(self.slots)
        layout = StepLayout(bucket=plan.bucket, table_width=self.table_width, num_groups=groups)
        inputs = pack(plan, layout, max_model_len=self.max_model_len, vocab_size=VOCAB)
        fields = unpack(inputs.ints, inputs.floats, layout)
        token_ids, kv_lens, starts = (f.tolist() for f in (fields.token_ids, fields.kv_lens, fields.cu_q_lens))
        tables = [table.tolist() for table in fields.block_tables]
        self._check_shape(plan, starts, kv_lens)
        for i, row in enumerate(plan.rows):
            ids = token_ids[starts[i] : starts[i + 1]]
            expected = self.states(row.request)
            first = kv_lens[i] - len(ids)
            for group in range(groups):
                self._write(group, tables[group][i], first, ids, expected, row.request)
        result = []
        for i, row in enumerate(plan.rows):
            expected = self.states(row.request)
            last = 0
            for group in range(groups):
                last = self._read(group, tables[group][i], kv_lens[i], expected, row.request.id)
            result.append(draw(last))
        return result

    def poison(self) -> None:
        """Spoil what nobody may read: the null block and all free blocks."""
        for pool, blocks in zip(self.scheduler._cache.pools, self.slots, strict=True):
            blocks[0] = [-1] * self.block_size
            for block in pool._free:
                blocks[block] = [-1] * self.block_size

    def _check_shape(self, plan: StepPlan, starts: list[int], kv_lens: list[int]) -> None:
        counts = [row.count for row in plan.rows]
        assert counts == sorted(counts, key=lambda count: count > 1), "rows with one token come first"
        assert [b - a for a, b in pairwise(starts)][: len(counts)] == counts
        assert set(starts[len(counts) :]) == {sum(counts)}
        assert kv_lens[len(counts) :] == [0] * (plan.bucket.rows - len(counts))
        assert plan.bucket.is_decode == (max(counts) == 1)
        assert sum(counts) <= plan.bucket.tokens

    def _write(
        self, group: int, table: list[int], first: int, ids: list[int], expected: list[int], request: Request
    ) -> None:
        size, blocks = self.block_size, self.slots[group]
        pool = self.scheduler._cache.pools[group]
        for position, token in enumerate(ids, first):
            block = table[position // size]
            assert block != 0, f"{request.id} writes to the null block"
            assert pool.references(block) == 1, f"{request.id} writes to block {block}, which is shared"
            assert not pool.is_sealed(block), f"{request.id} writes to block {block}, which is cached"
            assert token == request.tokens[position]
            blocks[block][position % size] = expected[position]

    def _read(self, group: int, table: list[int], kv_len: int, expected: list[int], name: str) -> int:
        size, blocks = self.block_size, self.slots[group]
        seen: list[int] = []
        for block in table[: -(-kv_len // size)]:
            seen += blocks[block]
        assert seen[:kv_len] == expected[:kv_len], f"{name} reads what it did not write: table {table}, {kv_len} tokens"
        assert not any(table[-(-len(expected) // size) :]), f"{name} holds blocks that it has no tokens for"
        return seen[kv_len - 1]


def check_blocks_lie_apart(scheduler: Scheduler) -> None:
    """I-OWN, seen from the tables: a block in two tables is full in both, and at the same place."""
    size = scheduler._cache.block_size
    for group in range(len(scheduler._cache.pools)):
        places: dict[int, int] = {}
        for request in scheduler._running:
            for i, block in enumerate(request.block_ids[group]):
                if block in places:
                    assert places[block] == i, f"block {block} is at two places"
                    assert (i + 1) * size <= request.num_computed, f"block {block} is shared, but not full"
                places[block] = i
