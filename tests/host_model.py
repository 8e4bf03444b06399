"""A model and a KV pool that need no device: what the scheduler's tests run instead of a runner.

The state of a position is a hash of all tokens up to it, and each block slot remembers the state that was written
there, and by which KV group. A step reads what its tokens may see through the packed block tables, in each group every
earlier position or those of its window, so a wrong table, a stale prefix hit, a block given up too early or a lost
write is a wrong state: it fails at once, and the drawn token would differ as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from jaxpaged.batch import Packer, StepInputs, StepLayout, unpack
from jaxpaged.blocks import NULL_BLOCK
from jaxpaged.plan import RowPlan, StepPlan
from jaxpaged.request import PENDING, FinishReason, Logprob, Request, SamplingParams
from jaxpaged.scheduler import Scheduler

VOCAB = 7
SPOILT: tuple[int, int] = (-1, -1)  # what is in a slot that nobody may read


def advance(state: int, token: int) -> int:
    return (state * 6364136223846793005 + (token + 1) * 1442695040888963407) & 0xFFFFFFFFFFFF


def states_of(tokens: Sequence[int], salt: str) -> list[int]:
    """The state after each token. The salt is part of it: namespaces must never share a block."""
    state, states = sum(salt.encode()) + 1, []
    for token in tokens:
        state = advance(state, token)
        states.append(state)
    return states


def draw(state: int, seed: int) -> int:
    return ((state >> 20) + seed) % VOCAB


def score(state: int, token: int) -> dict[int, Logprob]:
    """What the model says of a token after this state."""
    return {token: Logprob(logprob=-float(state % 997), rank=1 + (state + token) % VOCAB)}


def scores_alone(request: Request) -> tuple[dict[int, Logprob] | None, ...] | None:
    """What a request is told of its prompt."""
    if request.params.prompt_logprobs is None:
        return None
    states = states_of(request.prompt, request.salt)
    return (None, *map(score, states, request.prompt[1:]))


def run_alone(request: Request) -> tuple[list[int], FinishReason, int | None]:
    """Output, finish reason and stop reason of a request with nobody beside it: no scheduler involved."""
    output: list[int] = []
    state = states_of(request.prompt, request.salt)[-1]
    while True:
        token = draw(state, request.seed)
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
    prompt_logprobs: int | None = None,
    seed: int = 0,
) -> Request:
    params = SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        stop_token_ids=list(stop_token_ids),
        prompt_logprobs=prompt_logprobs,
    )
    return Request(
        id=name,
        prompt=tuple(prompt),
        params=params,
        seed=seed,
        max_tokens=max_tokens,
        stop_ids=frozenset([*stop_token_ids, *eos]),
        salt=salt,
    )


class ShadowModel:
    """Executes step plans against a shadow pool: per block, the groups and states written to its slots.

    Like a device it runs steps in order and remembers the token drawn at each seat, whether or not the scheduler knows
    it yet.
    """

    def __init__(self, scheduler: Scheduler, *, max_model_len: int) -> None:
        self.scheduler = scheduler
        cache = scheduler._cache
        self.block_size = block_size = cache.block_size
        self.windows = cache.demand.windows
        self.max_model_len = max_model_len
        self.table_width = -(-max_model_len // block_size)
        self.slots: list[list[tuple[int, int]]] = [
            [SPOILT] * block_size for _ in range(cache.pool.num_blocks)
        ]  # [block][offset]
        self._packer = Packer(
            num_seats=scheduler.config.num_seats,
            table_width=self.table_width,
            groups=range(len(self.windows)),
            max_model_len=max_model_len,
            vocab_size=VOCAB,
        )
        self._last_tokens = [0] * scheduler.config.num_seats
        self.scores: list[list[dict[int, Logprob]]] | None = None  # by row of the latest step
        speculator = scheduler.speculator
        self._most_drafted = 0 if speculator is None else speculator.config.num_speculative_tokens
        self._tokens: dict[str, list[int]] = {}  # by request id, never used twice: prompt and all that was drawn
        self._states: dict[str, list[int]] = {}  # after each of these tokens

    def execute(self, plan: StepPlan) -> list[int]:
        """Pack, write and read like a device would; returns a token per row."""
        groups = len(self.windows)
        layout = StepLayout(bucket=plan.bucket, table_width=self.table_width, num_groups=groups)
        inputs = self._packer.pack(plan, layout)
        fields = unpack(inputs.ints, layout, lambda bits: bits.view(np.float32))
        token_ids, kv_lens, starts, seats, sampled_at, positions = (
            f.tolist()
            for f in (
                fields.token_ids,
                fields.kv_lens,
                fields.cu_q_lens,
                fields.seats,
                fields.sampled_at,
                fields.positions,
            )
        )
        tables = [table.tolist() for table in fields.block_tables]
        self._check_shape(plan, starts, kv_lens, seats)
        assert positions == [*(row.start + row.length for row in plan.rows), *[0] * (len(seats) - len(plan.rows))]
        self._check_tables(plan, tables)
        self._copy(plan, inputs)
        paths: list[list[int]] = []  # of each row, the states after all its tokens
        for i, row in enumerate(plan.rows):
            ids = token_ids[starts[i] : starts[i + 1]]
            if ids == [PENDING]:
                ids = [self._last_tokens[seats[i]]]
            paths.append(self._learn(row, ids))
            for group in range(groups):
                self._write(group, tables[group][i], kv_lens[i] - len(ids), paths[i][: kv_lens[i]], row.request)
        self.scores = None
        if inputs.scored is not None:
            step_states = [
                state
                for row, path in zip(plan.rows, paths, strict=True)
                for state in path[row.start : row.start + row.length]
            ]
            found = (
                score(step_states[place], token)
                for place, token in zip(inputs.scored.places, inputs.scored.targets.tolist(), strict=True)
            )
            self.scores = [[next(found) for _ in range(count)] for count in inputs.scored.counts]
        result = []
        found_at: dict[int, tuple[Request, int]] = {}  # by place in the step: whose token it is, and the state after it
        for i, row in enumerate(plan.rows):
            last = 0
            for group in range(groups if row.length else 0):
                last = self._read(group, tables[group][i], row.start, paths[i][: kv_lens[i]], row.request)
            if row.length:
                assert sampled_at[i] == starts[i + 1] - 1
                found_at[sampled_at[i]] = row.request, last
            elif row.request.leader is not None:  # else that one ended since the plan
                leader, last = found_at[sampled_at[i]]
                assert leader is row.request.leader or not any(
                    other.request is row.request.leader for other in plan.rows
                )
            token = draw(last, row.request.seed)
            result.append(token)
            if seats[i] < len(self._last_tokens):
                self._last_tokens[seats[i]] = token
        return result

    def _copy(self, plan: StepPlan, inputs: StepInputs) -> None:
        packed = [tuple(pair) for pairs in inputs.copies for pair in pairs.T.tolist()]
        assert [pair for pair in packed if pair != (NULL_BLOCK, NULL_BLOCK)] == list(plan.copies)
        destinations = [destination for _, destination in plan.copies]
        assert len(set(destinations)) == len(destinations)
        for source, destination in packed:
            assert self.scheduler._cache.pool.references(destination) <= 1, (
                f"block {destination} is shared, and written"
            )
            assert not self.scheduler._cache.pool.is_sealed(destination)
            self.slots[destination] = [*self.slots[source]]

    def _learn(self, row: RowPlan, ids: list[int]) -> list[int]:
        """Compare a row's tokens to those of its request, and take note of the new ones. The states after all of them,
        as far as the row has them: a drafted one goes on with its guesses."""
        request = row.request
        tokens = self._tokens.setdefault(request.id, list(request.prompt))
        states = self._states.setdefault(request.id, states_of(request.prompt, request.salt))
        if row.draft:
            assert ids == [row.draft[-1]]
            path = states[: row.start + 1 - len(row.draft)]
            for guess in row.draft:
                path.append(advance(path[-1], guess))
            return path
        accepted = request.tokens[len(tokens) : row.start]  # guesses of the step before that came true
        assert PENDING not in accepted
        assert row.start <= len(tokens) + min(len(accepted), self._most_drafted)
        tokens += accepted
        tokens += ids[len(tokens) - row.start :]
        for token in tokens[len(states) :]:
            states.append(advance(states[-1], token))
        assert ids == tokens[row.start : row.start + row.length], (
            f"{request.id} computes {ids} at {row.start}: {tokens}"
        )
        known = [token for token in request.tokens if token != PENDING]
        assert tokens[: len(known)] == known[: len(tokens)], f"{request.id} is told other tokens than were drawn"
        return states

    def poison(self) -> None:
        """Spoil what nobody may read: the null block and all free blocks, but those that are still to be copied."""
        cache = self.scheduler._cache
        for block in {NULL_BLOCK, *cache.pool._free} - {source for source, _ in cache.copies}:
            self.slots[block] = [SPOILT] * self.block_size

    def _check_shape(self, plan: StepPlan, starts: list[int], kv_lens: list[int], seats: list[int]) -> None:
        counts = [row.length for row in plan.rows]
        kinds = [2 if count == 0 else int(count > 1) for count in counts]
        assert kinds == sorted(kinds), "rows with one token come first, those with none last"
        assert [b - a for a, b in pairwise(starts)][: len(counts)] == counts
        assert set(starts[len(counts) :]) == {sum(counts)}
        assert kv_lens[len(counts) :] == [0] * (plan.bucket.rows - len(counts))
        assert [length for length, count in zip(kv_lens, counts, strict=False) if not count] == [0] * counts.count(0)
        assert plan.bucket.is_decode == (max(counts) == 1)
        assert sum(counts) <= plan.bucket.tokens
        nobody = len(self._last_tokens)
        assert set(seats[len(counts) :]) <= {nobody}
        taken = [seat for seat in seats if seat != nobody]
        assert len(set(taken)) == len(taken), f"two rows in one seat: {seats}"

    def _check_tables(self, plan: StepPlan, tables: list[list[list[int]]]) -> None:
        """What was packed is what the requests hold, to the last entry; nobody is led to what he gave up."""
        for i, row in enumerate(plan.rows):
            held = row.request.block_ids or [[]] * len(tables)  # of one that ended since the plan: nothing
            for table, mine in zip(tables, held, strict=True):
                assert table[i] == [*mine, *[NULL_BLOCK] * (self.table_width - len(mine))]

    def _write(self, group: int, table: list[int], first: int, path: list[int], request: Request) -> None:
        """Write the states from place `first` on."""
        size, pool = self.block_size, self.scheduler._cache.pool
        for position in range(first, len(path)):
            block = table[position // size]
            assert block != NULL_BLOCK, f"{request.id} writes to the null block"
            assert pool.references(block) == 1, f"{request.id} writes to block {block}, which is shared"
            assert not pool.is_sealed(block), f"{request.id} writes to block {block}, which is cached"
            self.slots[block][position % size] = (group, path[position])

    def _read(self, group: int, table: list[int], start: int, path: list[int], request: Request) -> int:
        """The state of a row's last token, once all that its tokens see from `start` on was found in its place."""
        name, size, window = request.id, self.block_size, self.windows[group]
        first, end = 0 if window is None else max(0, start - window + 1), len(path)
        seen = [self.slots[table[i // size]][i % size] for i in range(first, end)]
        assert seen == [(group, state) for state in path[first:]], (
            f"{name} reads what it did not write: table {table}, tokens {first} to {end} of group {group}"
        )
        last = -(-(max(len(self._states[name]), request.num_tokens) + self._most_drafted) // size)
        assert not any(table[last:]), f"{name} holds blocks that it has no tokens for"
        return seen[-1][1]


def check_blocks_lie_apart(scheduler: Scheduler) -> None:
    """I-OWN, seen from the tables: a block in two tables is in the same group, at the same place and as full in both,
    with the same tokens."""
    size = scheduler._cache.block_size
    seen: dict[int, tuple[int, int, list[int]]] = {}
    for request in scheduler.roster.running:
        for group, table in enumerate(request.block_ids):
            for i, block in enumerate(table):
                if block == NULL_BLOCK:
                    continue
                mine = group, i, request.tokens[: min((i + 1) * size, request.num_computed)]
                assert seen.setdefault(block, mine) == mine, f"block {block} is not the same in two tables"
                if scheduler._cache.pool.references(block) > 1:
                    assert i * size < request.num_computed, f"block {block} is shared, but empty"


def count_slots(scheduler: Scheduler) -> dict[str, int]:
    """The ledger's classes by brute force: every slot of the pool is looked at by itself."""
    cache = scheduler._cache
    pool, size, windows = cache.pool, cache.block_size, cache.demand.windows
    found: dict[str, int] = dict.fromkeys(
        ("live", "behind", "shared", "tail", "cached", "free", "null", "tokens", "contiguous"), 0
    )
    free = set(pool._free)
    for block in range(pool.num_blocks):
        holders = [
            (request, windows[group], table.index(block))
            for request in scheduler.roster.running
            for group, table in enumerate(request.block_ids)
            if block != NULL_BLOCK and block in table
        ]
        for offset in range(size):
            if len(holders) > 1:
                (filled,) = {place * size + offset < request.num_computed for request, _, place in holders}
                name = "shared" if filled else "tail"
            elif holders:
                request, window, place = holders[0]
                position, computed = place * size + offset, request.num_computed
                seen = window is None or position > computed - window
                name = "tail" if position >= computed else "live" if seen else "behind"
            else:
                name = "null" if block == NULL_BLOCK else "free" if block in free else "cached"
            found[name] += 1
            found["tokens"] += sum(place * size + offset < request.num_computed for request, _, place in holders)
    found["contiguous"] = len(windows) * len(scheduler.roster.running) * scheduler.config.max_model_len
    return found
