"""The KV memory of all requests: one pool of blocks, a block table per request and KV group. [host half: no jax]

Owns the block tables: matching a prompt against the cache, growing a table, giving up what lies behind a window,
publishing full blocks, forking, and the one way out, `release`. Who gets blocks, and when, is the scheduler's.

A fork shares all blocks of its parent, the partly filled last one as well. A block in more than one table is never
written: who is about to write to such a tail gets a copy first (`grow`), the last holder has it alone and needs none.

All groups take their blocks from one pool, so none of them has a share that the others cannot use. A block belongs to
the group in whose tables it is, or whose prefix index knows it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from jaxpaged.block_listener import BlockListener
from jaxpaged.blocks import NULL_BLOCK, BlockPool
from jaxpaged.demand import KVDemand, spanned
from jaxpaged.kv_pool_spec import KVPoolSpec
from jaxpaged.prefix import PrefixIndex, PrefixListener, extend_keys, root_key
from jaxpaged.request import Request


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
    block_listener: told of what becomes of the blocks.
    """

    def __init__(
        self,
        spec: KVPoolSpec,
        *,
        chunk: int,
        prefix_caching: bool,
        dtype: str = "",
        listener: PrefixListener | None = None,
        block_listener: BlockListener | None = None,
    ) -> None:
        self.block_size = size = spec.block_size
        self.prefix_caching = prefix_caching
        self.demand = KVDemand(windows=spec.windows, block_size=size, chunk=chunk)
        self._dtype = dtype
        self._listener, self._block_listener = listener, block_listener
        self._full = tuple(group for group, window in enumerate(spec.windows) if window is None)
        self.windowed = tuple((group, window) for group, window in enumerate(spec.windows) if window is not None)
        """The groups that have a window, with it."""
        self.indexes = tuple(PrefixIndex(size) for _ in spec.windows)
        self._sealers = bytearray(spec.num_blocks)  # of a sealed block, the group whose index knows it
        plain = len(self.indexes) == 1 and listener is None and block_listener is None
        self.pool = BlockPool(spec.num_blocks, on_evict=self.indexes[0].forget if plain else self._evict)
        self.num_held = 0
        """Entries of all tables together that are blocks."""
        self.num_null = 0
        """The others."""
        self._copies: dict[int, int] = {}  # blocks to be filled before the next step, each from which other block
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
        if self.windowed:
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
        reaches = [(group, self.blocks_for(window - 1)) for group, window in self.windowed]
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
            self.num_held += len(hits)
            self.num_null += start
            if self._block_listener is not None:
                self._block_listener.touched(hits)
        request.num_computed = request.num_committed = match.num_blocks * self.block_size
        assert request.num_computed < request.num_tokens, "the last token must be computed, or there are no logits"

    def fork(self, parent: Request, child: Request) -> None:
        """Give `child`, whose tokens begin with all that are computed of `parent`, tables of the same blocks."""
        assert not child.block_ids, f"request {child.id!r} has tables already"
        computed = parent.num_computed
        assert child.tokens[:computed] == parent.tokens[:computed], f"{child.id!r} is no fork of {parent.id!r}"
        count = self.blocks_for(computed)
        child.block_ids, child.table_starts = [table[:count] for table in parent.block_ids], [*parent.table_starts]
        for table, start in zip(child.block_ids, child.table_starts, strict=True):
            for block in table[start:]:
                self.pool.fork(block)
        null = sum(child.table_starts)
        self.num_held += count * self.num_groups - null
        self.num_null += null
        child.block_keys = parent.block_keys[: computed // self.block_size]
        child.num_computed, child.num_committed = computed, parent.num_committed
        child.table_edits += 1

    def shared_tails(self, request: Request) -> int:
        """Partly filled blocks that a request would write to next, but shares: it needs as many of its own."""
        pool = self.pool
        if not pool.num_open:
            return 0
        last, filled = divmod(request.num_computed, self.block_size)
        return sum(pool.references(table[last]) > 1 for table in request.block_ids) if filled else 0

    def lacks(self, request: Request, num_tokens: int) -> int:
        """Blocks that a running request still needs at once to come to `num_tokens` tokens."""
        more = self.blocks_for(num_tokens) - len(request.block_ids[0])
        copies = self.shared_tails(request) if num_tokens > request.num_computed else 0
        if more <= 0:
            return copies
        held = zip(request.block_ids, request.table_starts, strict=True)
        return copies + self.demand.missing(more, tuple(len(table) - start for table, start in held))

    def make_room(self, request: Request, num_tokens: int, running: Sequence[Request]) -> bool:
        """Whether the tables can be extended to `num_tokens` tokens, now that what lies behind windows is given up.

        What the other `running` requests still keep there, for the prefix cache alone, goes before anybody's work.
        """
        self.retire(request)
        count = max(0, self.blocks_for(num_tokens) - len(request.block_ids[0])) * self.num_groups
        count += self.shared_tails(request)
        if self.windowed and not self.pool.can_allocate(count):
            for other in running:
                self.retire(other, unpublished=True)
        return self.pool.can_allocate(count)

    def grow(self, request: Request, num_tokens: int) -> None:
        """Extend the tables to hold `num_tokens` tokens, ready to be written from `num_computed` on.

        A tail that others hold as well is replaced by a block of the request's own, to be filled by `copies`.
        """
        if self.shared_tails(request):
            self._own_tails(request)
        count = self.blocks_for(num_tokens) - len(request.block_ids[0])
        first = request.num_computed // self.block_size
        pool = self.pool
        for table in request.block_ids:
            if count > 0:
                table.extend(pool.allocate(count))
                self.num_held += count
                if self._block_listener is not None:
                    self._block_listener.allocated(table[-count:])
            assert len(table) * self.block_size >= num_tokens
            for block in table[first:]:
                assert pool.is_writable(block), f"request {request.id!r} would write to block {block}, not its alone"
        if count > 0:
            request.table_edits += 1
            self._check_windows(request, num_tokens)

    def _own_tails(self, request: Request) -> None:
        pool, last = self.pool, request.num_computed // self.block_size
        for table in request.block_ids:
            block = table[last]
            if pool.references(block) > 1:
                (mine,) = pool.allocate(1)
                if self._block_listener is not None:
                    self._block_listener.allocated((mine,))
                source = self._copies.get(block, block)  # what is to be copied there is not there yet
                self._copies.pop(mine, None)  # for a holder that is gone; the order is that of the last ones
                self._copies[mine] = source
                pool.release(block)
                table[last] = mine
        request.block_ids = [*request.block_ids]  # new tables, for those who keep a copy of them
        request.table_edits += 1

    @property
    def copies(self) -> tuple[tuple[int, int], ...]:
        """(source, destination) of the blocks that must be copied before the next step, in this order."""
        return tuple((source, block) for block, source in self._copies.items())

    def copied(self) -> None:
        """Take in that the step before which `copies` are made is on its way."""
        self._copies.clear()

    def _check_windows(self, request: Request, num_tokens: int) -> None:
        """Assert I-WINDOW of tables that end with `num_tokens` tokens; as computed until their steps are committed
        count the ones in flight."""
        computed = request.num_computed
        for group, window in self.windowed:
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
        for group, window in self.windowed:
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
            self.num_held -= given_up
            self.num_null += given_up

    def publish(self, request: Request, start: int, end: int) -> None:
        """Take in that tokens[start:end] are computed: full blocks become known to the prefix index, and those of a
        chunk that are behind a window already are given up."""
        size = self.block_size
        first, last = start // size, end // size
        if first != last and self.prefix_caching:
            self._index(request, first, last)
        if self.windowed:
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
        self.num_held -= sum(map(len, tables)) - null
        self.num_null -= null
        request.block_ids, request.table_starts = [], []
        request.num_computed = request.num_committed = 0

    def forget_prefixes(self) -> None:
        """Empty the prefix indexes; blocks in use stay with their requests."""
        listener, self._listener = self._listener, None  # it is told once, not of every block
        if self._block_listener is not None:
            self._block_listener.cleared()
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
        if self._block_listener is not None:
            self._block_listener.evicted(block)

    def check(self, running: Sequence[Request]) -> None:
        """Assert I-POOL, I-OWN and I-WINDOW, and that every table covers what is computed."""
        pool, size = self.pool, self.block_size
        fills: dict[int, tuple[int, int, int]] = {}  # of each block: group, place and how many tokens it has
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
                    fill = group, i, max(0, min(size, computed - i * size))
                    assert fills.setdefault(block, fill) == fill, f"block {block} is not the same to all its holders"
                    assert fill[2] == size or not pool.is_sealed(block), f"block {block} is sealed, but not full"
                    assert fill[2] or pool.is_writable(block), f"{request.id!r} may not write to block {block}"
        held = [
            table[start:]
            for request in running
            for table, start in zip(request.block_ids, request.table_starts, strict=True)
        ]
        pool.check(held)
        assert self.num_held == sum(map(len, held))
        assert self.num_null == sum(sum(request.table_starts) for request in running)
        for group, index in enumerate(self.indexes):
            index.check()
            for block in range(pool.num_blocks):
                known = pool.is_sealed(block) and self._sealers[block] == group
                assert known == (block in index), f"block {block}: sealed or indexed, but not both"
