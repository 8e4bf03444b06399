"""The KV memory of all requests: one pool of blocks, a block table per request and KV group. [host half: no jax]

Owns the block tables: matching a prompt against the cache, growing a table, giving up what lies behind a window,
publishing full blocks, and the one way out, `release`. Which request gets blocks, and when, is the scheduler's.

All groups take their blocks from one pool, so none of them has a share that the others cannot use. A block belongs to
the group in whose tables it is, or whose prefix index knows it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from jaxpaged.blocks import NULL_BLOCK, BlockPool
from jaxpaged.demand import KVDemand, spanned
from jaxpaged.errors import ConfigError
from jaxpaged.ledger import KVLedger
from jaxpaged.prefix import PrefixIndex, PrefixListener, extend_keys, root_key
from jaxpaged.request import Request
from jaxpaged.residency import BlockResidency


@dataclass(frozen=True, slots=True, kw_only=True)
class KVPoolSpec:
    """The pool: `num_blocks` (N, the null block included) of `block_size` tokens (P), for groups with these `windows`.

    windows: of each KV group, how far back its layers look, in tokens; None: at everything. Raises ConfigError.
    """

    block_size: int
    num_blocks: int
    windows: tuple[int | None, ...] = (None,)

    def __post_init__(self) -> None:
        assert self.windows, "a model has KV groups"
        least = 1 + len(self.windows)  # beside the null block one a group, or no token has a place
        for name, value, low in (("block_size", self.block_size, 1), ("num_blocks", self.num_blocks, least)):
            if value < low:
                raise ConfigError(name=name, value=value, limit=f"it must be at least {low}")
        for window in self.windows:
            if window is not None and window < 1:
                raise ConfigError(name="window", value=window, limit="it must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixMatch:
    """The longest cached beginning of a request that all groups can go on from: `num_blocks` blocks.

    blocks: of each group the ids of the last of them, as many as a later token sees.
    """

    num_blocks: int
    blocks: tuple[tuple[int, ...], ...]


class KVCache:
    """Pool, prefix indexes and block tables. A table is an int32 array in `Request.block_ids`, one per group.

    chunk: tokens of a request in one step at most. listener: told of what enters and leaves the prefix indexes.
    residency: told of what becomes of the blocks.
    """

    def __init__(
        self,
        spec: KVPoolSpec,
        *,
        chunk: int,
        prefix_caching: bool,
        dtype: str = "",
        listener: PrefixListener | None = None,
        residency: BlockResidency | None = None,
    ) -> None:
        self.block_size = size = spec.block_size
        self.prefix_caching = prefix_caching
        self.demand = KVDemand(windows=spec.windows, block_size=size, chunk=chunk)
        self._dtype = dtype
        self._listener, self._residency = listener, residency
        self._full = tuple(group for group, window in enumerate(spec.windows) if window is None)
        self._windowed = tuple((group, window) for group, window in enumerate(spec.windows) if window is not None)
        self.indexes = tuple(PrefixIndex(size) for _ in spec.windows)
        self._sealers = bytearray(spec.num_blocks)  # of a sealed block, the group whose index knows it
        plain = len(self.indexes) == 1 and listener is None and residency is None
        self.pool = BlockPool(spec.num_blocks, on_evict=self.indexes[0].forget if plain else self._evict)
        self._num_held = 0  # entries of all tables together that are blocks
        self._num_null = 0  # the others
        self.max_blocks = spec.num_blocks - 1
        """Blocks that one request can hold in all groups together."""

    @property
    def num_groups(self) -> int:
        return len(self.indexes)

    def blocks_for(self, num_tokens: int) -> int:
        """Entries of a table for `num_tokens` tokens, in each group."""
        return -(-num_tokens // self.block_size)

    def match(self, request: Request) -> PrefixMatch:
        """What all groups hold of the tokens that a request need not compute. O(blocks of the request).

        A group without a window must hold the whole beginning, one with a window w only the blocks of its last w - 1
        tokens: those that the next token sees.
        """
        size, keys = self.block_size, request.block_keys
        count = request.num_reusable // size if self.prefix_caching else 0
        root = root_key(request.salt, self._dtype)
        found: list[list[int]] = [[] for _ in self.indexes]
        if not self._full:
            extend_keys(keys, request.tokens, count, block_size=size, root=root)
        elif count:
            count = self._match_whole(request, count, root, found)
        if self._windowed:
            count = self._match_windows(request, count, root, found)
        return PrefixMatch(num_blocks=count, blocks=tuple(tuple(blocks[:count]) for blocks in found))

    def _match_whole(self, request: Request, most: int, root: bytes, found: list[list[int]]) -> int:
        """Blocks that the groups without a window hold from the first one on; appended to what they found."""
        for i in range(most):
            extend_keys(request.block_keys, request.tokens, i + 1, block_size=self.block_size, root=root)
            hits = [self._find(group, request, i, root) for group in self._full]
            if None in hits:
                return i
            for group, block in zip(self._full, hits, strict=True):
                assert block is not None
                found[group].append(block)
        return most

    def _match_windows(self, request: Request, most: int, root: bytes, found: list[list[int]]) -> int:
        """Blocks of the longest hit of at most `most` that every group with a window can serve, found from the end
        back. Where one lacks a block the hit must end before it, so no block is looked for twice."""
        reaches = [(group, self.blocks_for(window - 1)) for group, window in self._windowed]
        farthest = max(reach for _, reach in reaches)
        end, i = most, most - 1
        while i >= max(0, end - farthest):
            for group, reach in reaches:
                if i < end - reach:
                    continue
                block = self._find(group, request, i, root)
                if block is None:
                    end = i
                    for other, _ in reaches:
                        found[other].clear()
                    break
                found[group].append(block)
            i -= 1
        for group, _ in reaches:
            found[group].reverse()
        return end

    def _find(self, group: int, request: Request, i: int, root: bytes) -> int | None:
        """The block of a group that holds a request's i-th block of tokens."""
        keys, size = request.block_keys, self.block_size
        index = self.indexes[group]
        if not index.knows(keys[i]):
            return None
        return index.find(keys[i], keys[i - 1] if i else root, request.tokens[i * size : (i + 1) * size])

    def missing(self, match: PrefixMatch, num_tokens: int) -> int:
        """Blocks that `num_tokens` tokens beginning with `match` need beside it."""
        more = max(0, self.blocks_for(num_tokens) - match.num_blocks)
        return self.demand.missing(more, tuple(map(len, match.blocks)))

    def can_admit(self, match: PrefixMatch, num_tokens: int, *, spare: int) -> bool:
        """Whether `num_tokens` tokens beginning with `match` fit now and leave `spare` blocks."""
        pool = self.pool
        # available now, but not once they are shared
        revived = sum(pool.references(block) == 0 for hits in match.blocks for block in hits)
        return pool.can_allocate(self.missing(match, num_tokens) + revived + spare)

    def admit(self, request: Request, match: PrefixMatch) -> None:
        """Give a request its tables, beginning with the matched blocks."""
        assert not request.block_ids, f"request {request.id!r} has tables already"
        assert request.num_computed == 0
        request.block_ids, request.table_starts = [], []
        for hits in match.blocks:
            for block in hits:
                self.pool.share(block)
            start = match.num_blocks - len(hits)
            request.block_ids.append(array("i", [NULL_BLOCK] * start + list(hits)))
            request.table_starts.append(start)
            self._num_held += len(hits)
            self._num_null += start
            if self._residency is not None:
                self._residency.touched(hits)
        request.num_computed = request.num_committed = match.num_blocks * self.block_size
        assert request.num_computed < request.num_tokens, "the last token must be computed, or there are no logits"

    def lacks(self, request: Request, num_tokens: int) -> int:
        """Blocks that a running request still needs at once to come to `num_tokens` tokens."""
        more = self.blocks_for(num_tokens) - len(request.block_ids[0])
        if more <= 0:
            return 0
        held = zip(request.block_ids, request.table_starts, strict=True)
        return self.demand.missing(more, tuple(len(table) - start for table, start in held))

    def make_room(self, request: Request, num_tokens: int, running: Sequence[Request]) -> bool:
        """Whether the tables can be extended to `num_tokens` tokens, now that what lies behind windows is given up.

        What the other `running` requests still keep there, for the prefix cache alone, goes before anybody's work.
        """
        self.retire(request)
        count = max(0, self.blocks_for(num_tokens) - len(request.block_ids[0])) * self.num_groups
        if self._windowed and not self.pool.can_allocate(count):
            for other in running:
                self.retire(other, unpublished=True)
        return self.pool.can_allocate(count)

    def grow(self, request: Request, num_tokens: int) -> None:
        """Extend the tables to hold `num_tokens` tokens, ready to be written from `num_computed` on."""
        count = self.blocks_for(num_tokens) - len(request.block_ids[0])
        first = request.num_computed // self.block_size
        pool = self.pool
        for table in request.block_ids:
            if count > 0:
                table.extend(pool.allocate(count))
                self._num_held += count
                if self._residency is not None:
                    self._residency.allocated(table[-count:])
            assert len(table) * self.block_size >= num_tokens
            for block in table[first:]:
                assert pool.is_writable(block), f"request {request.id!r} would write to block {block}, not its alone"
        if count > 0:
            request.table_edits += 1
            self._check_windows(request, num_tokens)

    def _check_windows(self, request: Request, num_tokens: int) -> None:
        """Assert I-WINDOW of tables that end with `num_tokens` tokens; as computed until their steps are committed
        count the ones in flight."""
        computed = request.num_computed
        for group, window in self._windowed:
            live = len(request.block_ids[group]) - request.table_starts[group]
            seen = max(window - 1, computed - request.num_committed) + num_tokens - computed
            most = spanned(seen, self.block_size)
            assert live <= most, f"request {request.id!r} holds {live} blocks of a window of {window}, at most {most}"

    def retire(self, request: Request, *, unpublished: bool = False) -> None:
        """Give up the blocks whose tokens no later token of a request sees.

        The next token, at place `num_computed`, sees those above num_computed - window. A launched step may still read
        and even write such a block: whoever gets it writes to it in a later step. unpublished: also those that a step
        in flight fills, which nobody can find again then.
        """
        size, given_up = self.block_size, 0
        for group, window in self._windowed:
            unseen = request.num_computed - window + 1
            if self.prefix_caching and not unpublished:
                unseen = min(unseen, request.num_committed)
            start, end = request.table_starts[group], unseen // size
            if start < end:
                table = request.block_ids[group]
                for i in range(start, end):
                    self.pool.release(table[i])
                    table[i] = NULL_BLOCK
                request.table_starts[group] = end
                given_up += end - start
        if given_up:
            request.table_edits += 1
            self._num_held -= given_up
            self._num_null += given_up

    def publish(self, request: Request, start: int, end: int) -> None:
        """Take in that tokens[start:end] are computed: full blocks become known to the prefix index, and those of a
        chunk that are behind a window already are given up."""
        size = self.block_size
        first, last = start // size, end // size
        if first != last and self.prefix_caching:
            self._index(request, first, last)
        if self._windowed:
            request.num_committed = end
            if end - start > 1:
                self.retire(request)

    def _index(self, request: Request, first: int, last: int) -> None:
        """Make a request's blocks of places [first, last), full by now, known to the prefix indexes."""
        size, tokens, keys = self.block_size, request.tokens, request.block_keys
        root = root_key(request.salt, self._dtype)
        extend_keys(keys, tokens, last, block_size=size, root=root)
        for i in range(first, last):
            parent = keys[i - 1] if i else root
            content = tokens[i * size : (i + 1) * size]
            for group, index in enumerate(self.indexes):
                block = request.block_ids[group][i]
                if block != NULL_BLOCK and index.add(block, keys[i], parent, content):
                    self.pool.seal(block)
                    self._sealers[block] = group
                    if self._listener is not None:
                        self._listener.stored(group, keys[i], parent if i else None, content, request.salt)

    def release(self, request: Request) -> None:
        """Take all blocks from a request. The last ones go first, so that a prefix outlives its continuations."""
        tables, release = request.block_ids, self.pool.release
        for blocks in zip(*map(reversed, tables), strict=True):
            for block in blocks:
                if block != NULL_BLOCK:
                    release(block)
        null = sum(request.table_starts)
        self._num_held -= sum(map(len, tables)) - null
        self._num_null -= null
        request.block_ids, request.table_starts = [], []
        request.num_computed = request.num_committed = 0

    def forget_prefixes(self) -> None:
        """Empty the prefix indexes; blocks in use stay with their requests."""
        listener, self._listener = self._listener, None  # it is told once, not of every block
        if self._residency is not None:
            self._residency.cleared()
        self.pool.unseal_all()
        self._listener = listener
        if listener is not None:
            listener.cleared()
        assert not any(len(index) for index in self.indexes)

    def _evict(self, block: int) -> None:
        group = self._sealers[block]
        key = self.indexes[group].forget(block)
        if self._listener is not None:
            self._listener.removed(group, key)
        if self._residency is not None:
            self._residency.evicted(block)

    def ledger(self, running: Sequence[Request], *, max_model_len: int) -> KVLedger:
        """Classes of all slots; O(running requests), and O(their blocks behind it) in groups with a window."""
        size, pool = self.block_size, self.pool
        tokens = self.num_groups * sum([request.num_computed for request in running]) - self._num_null * size
        tail = self._num_held * size - tokens
        shared = pool.num_shared * size
        behind = sum(self._behind(group, window, running) for group, window in self._windowed)
        live = pool.num_referenced * size - shared - tail - behind
        assert tail >= 0, f"{tail} tail slots"
        assert live >= 0, f"{live} live slots"
        return KVLedger(
            live=live,
            behind=behind,
            shared=shared,
            tail=tail,
            cached=pool.num_cached * size,
            free=pool.num_free * size,
            null=size,
            tokens=tokens,
            contiguous=max_model_len * self.num_groups * len(running),
        )

    def _behind(self, group: int, window: int, running: Sequence[Request]) -> int:
        """Slots of one group with tokens of one request that its next token, and so no later one, sees."""
        size, pool, total = self.block_size, self.pool, 0
        for request in running:
            unseen, start = request.num_computed - window + 1, request.table_starts[group]
            if not pool.num_shared:  # every step asks: no walk over the tables where there is nothing to find in them
                total += max(0, unseen - start * size)
                continue
            for i in range(start, self.blocks_for(max(0, unseen))):
                if pool.references(request.block_ids[group][i]) == 1:
                    total += min(size, unseen - i * size)
        return total

    def check(self, running: Sequence[Request]) -> None:
        """Assert I-POOL, I-OWN and I-WINDOW, and that every table covers what is computed."""
        pool, size = self.pool, self.block_size
        for request in running:
            computed = request.num_computed
            assert request.num_committed <= computed
            assert len({len(table) for table in request.block_ids}) == 1, "a request's tables are equally long"
            for group, (table, start) in enumerate(zip(request.block_ids, request.table_starts, strict=True)):
                window = self.demand.windows[group]
                unseen = 0 if window is None else max(0, computed - window + 1)
                assert start * size <= unseen, f"{request.id!r} gave up blocks that its next token sees"
                assert len(table) * size >= computed, f"{request.id!r} lacks blocks"
                assert not any(table[:start])
                assert NULL_BLOCK not in table[start:]
                for i, block in enumerate(table[start:], start):
                    full = (i + 1) * size <= computed
                    assert full or pool.is_writable(block), f"{request.id!r} may not write to block {block}"
        held = [
            table[start:]
            for request in running
            for table, start in zip(request.block_ids, request.table_starts, strict=True)
        ]
        pool.check(held)
        assert self._num_held == sum(map(len, held))
        assert self._num_null == sum(sum(request.table_starts) for request in running)
        for group, index in enumerate(self.indexes):
            index.check()
            for block in range(pool.num_blocks):
                known = pool.is_sealed(block) and self._sealers[block] == group
                assert known == (block in index), f"block {block}: sealed or indexed, but not both"
