"""The KV memory of all requests: one pool of blocks and one prefix index per KV group. [host half: no jax]

Owns the block tables: matching a prompt against the cache, growing a table, publishing full blocks, and the one way
out, `release`. Which request gets blocks, and when, is the scheduler's.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from jaxpaged.blocks import NULL_BLOCK, BlockPool
from jaxpaged.errors import ConfigError
from jaxpaged.prefix import PrefixIndex, PrefixListener, extend_keys, root_key
from jaxpaged.request import Request
from jaxpaged.residency import BlockResidency


@dataclass(frozen=True, slots=True, kw_only=True)
class KVGroupSpec:
    """One kind of KV: `num_blocks` (N, the null block included) of `block_size` tokens (P); `window` in tokens or None.

    Raises ConfigError.
    """

    block_size: int
    num_blocks: int
    window: int | None = None

    def __post_init__(self) -> None:
        for name, value, low in (
            ("block_size", self.block_size, 1),
            ("num_blocks", self.num_blocks, 2),
            ("window", self.window, 1),
        ):
            if value is not None and value < low:
                raise ConfigError(name=name, value=value, limit=f"it must be at least {low}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KVLedger:
    """Every slot (token place) of all pools, in exactly one class; `total` is the sum of the classes.

    live: holds a token of one request. behind: likewise, but no later token of that request sees it, since all layers
    of its group have windows. shared: holds a token of several requests, counted once. tail: held by a request but
    without a token yet. cached: holds a token of nobody, kept for prefix hits. free, null: hold nothing.
    Beside the classes, `tokens`: of all running requests, in each group, shared ones as often as they are shared; and
    `contiguous`: slots that a max-length reservation for each running request would hold.
    """

    live: int
    behind: int
    shared: int
    tail: int
    cached: int
    free: int
    null: int
    tokens: int
    contiguous: int

    @property
    def held(self) -> int:
        """Slots that running requests keep from others."""
        return self.live + self.behind + self.shared + self.tail

    @property
    def total(self) -> int:
        return self.held + self.cached + self.free + self.null


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixMatch:
    """The longest cached beginning of a request: per group its blocks, the same number of them in each."""

    blocks: tuple[tuple[int, ...], ...]

    @property
    def num_blocks(self) -> int:
        return len(self.blocks[0])


class KVCache:
    """Pools, prefix indexes and block tables. A table is an int32 array in `Request.block_ids`, one per group.

    listener: told of what enters and leaves the prefix indexes. residency: told of what becomes of the blocks. Raises
    ConfigError where groups have different block sizes (their blocks' keys could not be shared).
    """

    def __init__(
        self,
        groups: Sequence[KVGroupSpec],
        *,
        prefix_caching: bool,
        dtype: str = "",
        listener: PrefixListener | None = None,
        residency: BlockResidency | None = None,
    ) -> None:
        sizes = sorted({group.block_size for group in groups})
        if len(sizes) != 1:
            raise ConfigError(
                name="block_size of the KV groups", value=sizes, limit="there must be one, the same for all"
            )
        self.block_size = sizes[0]
        self.prefix_caching = prefix_caching
        self._dtype = dtype
        self._listener, self._residency = listener, residency
        self._windows = tuple(group.window for group in groups)
        self.indexes = tuple(PrefixIndex(self.block_size) for _ in groups)
        watched = listener is not None or residency is not None
        self.pools = tuple(
            BlockPool(group.num_blocks, on_evict=partial(self._evict, number) if watched else index.forget)
            for number, (group, index) in enumerate(zip(groups, self.indexes, strict=True))
        )
        self._num_held = 0  # entries of all tables together
        self.max_blocks = min(pool.num_blocks for pool in self.pools) - 1
        """Blocks that one request can hold in each group."""

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` tokens, in each group."""
        return -(-num_tokens // self.block_size)

    def match(self, request: Request) -> PrefixMatch:
        """What all groups hold of the tokens that a request need not compute."""
        found: list[tuple[int, ...]] = []
        size, tokens, keys = self.block_size, request.tokens, request.block_keys
        limit = request.num_reusable // size if self.prefix_caching else 0
        root = root_key(request.salt, self._dtype)
        for i in range(limit):
            extend_keys(keys, tokens, i + 1, block_size=size, root=root)
            parent = keys[i - 1] if i else root
            content = tokens[i * size : (i + 1) * size]
            hits = [index.find(keys[i], parent, content) for index in self.indexes]
            blocks = tuple(block for block in hits if block is not None)
            if len(blocks) < len(hits):
                break
            found.append(blocks)
        return PrefixMatch(blocks=tuple(zip(*found, strict=True)) if found else ((),) * len(self.pools))

    def can_admit(self, match: PrefixMatch, num_tokens: int, *, spare: int) -> bool:
        """Whether `num_tokens` tokens beginning with `match` fit now and leave `spare` blocks in each group."""
        new = self.blocks_for(num_tokens) - match.num_blocks
        for pool, hits in zip(self.pools, match.blocks, strict=True):
            revived = sum(pool.references(block) == 0 for block in hits)  # available now, but not once they are shared
            if not pool.can_allocate(new + revived + spare):
                return False
        return True

    def admit(self, request: Request, match: PrefixMatch) -> None:
        """Give a request its tables, beginning with the matched blocks."""
        assert not request.block_ids, f"request {request.id!r} has tables already"
        assert request.num_computed == 0
        for pool, hits in zip(self.pools, match.blocks, strict=True):
            for block in hits:
                pool.share(block)
            request.block_ids.append(array("i", hits))
            self._num_held += len(hits)
        if self._residency is not None:
            for group, hits in enumerate(match.blocks):
                self._residency.touched(group, hits)
        request.num_computed = match.num_blocks * self.block_size
        assert request.num_computed < request.num_tokens, "the last token must be computed, or there are no logits"

    def lacks(self, request: Request, num_tokens: int) -> int:
        """Blocks that a running request still needs to hold `num_tokens` tokens, in each group."""
        return max(0, self.blocks_for(num_tokens) - len(request.block_ids[0]))

    def can_grow(self, request: Request, num_tokens: int) -> bool:
        count = self.lacks(request, num_tokens)
        return count == 0 or all(pool.can_allocate(count) for pool in self.pools)

    def grow(self, request: Request, num_tokens: int) -> None:
        """Extend the tables to hold `num_tokens` tokens, ready to be written from `num_computed` on."""
        count = self.lacks(request, num_tokens)
        first = request.num_computed // self.block_size
        for pool, table in zip(self.pools, request.block_ids, strict=True):
            if count:
                table.extend(pool.allocate(count))
                self._num_held += count
                if self._residency is not None:
                    self._residency.allocated(self.pools.index(pool), table[-count:])
            assert len(table) * self.block_size >= num_tokens
            for block in table[first:]:
                assert pool.is_writable(block), f"request {request.id!r} would write to block {block}, not its alone"

    def publish(self, request: Request, start: int, end: int) -> None:
        """Make the blocks that became full by computing tokens[start:end] known to the prefix index."""
        size = self.block_size
        first, last = start // size, end // size
        if first == last or not self.prefix_caching:
            return
        tokens, keys = request.tokens, request.block_keys
        root = root_key(request.salt, self._dtype)
        extend_keys(keys, tokens, last, block_size=size, root=root)
        for i in range(first, last):
            parent = keys[i - 1] if i else root
            content = tokens[i * size : (i + 1) * size]
            for group, (pool, index) in enumerate(zip(self.pools, self.indexes, strict=True)):
                block = request.block_ids[group][i]
                if index.add(block, keys[i], parent, content):
                    pool.seal(block)
                    if self._listener is not None:
                        self._listener.stored(group, keys[i], parent if i else None, content, request.salt)

    def release(self, request: Request) -> None:
        """Take all blocks from a request. The last ones go first, so that a prefix outlives its continuations."""
        for pool, table in zip(self.pools, request.block_ids, strict=bool(request.block_ids)):
            for block in reversed(table):
                pool.release(block)
            self._num_held -= len(table)
        request.block_ids = []
        request.num_computed = 0

    def forget_prefixes(self) -> None:
        """Empty the prefix indexes; blocks in use stay with their requests."""
        listener, self._listener = self._listener, None  # it is told once, not of every block
        if self._residency is not None:
            self._residency.cleared()
        for pool in self.pools:
            pool.unseal_all()
        self._listener = listener
        if listener is not None:
            listener.cleared()
        assert not any(len(index) for index in self.indexes)

    def _evict(self, group: int, block: int) -> None:
        key = self.indexes[group].forget(block)
        if self._listener is not None:
            self._listener.removed(group, key)
        if self._residency is not None:
            self._residency.evicted(group, block)

    def ledger(self, running: Sequence[Request], *, max_model_len: int) -> KVLedger:
        """Classes of all slots; O(running requests), and O(their blocks behind it) in groups with a window."""
        size, pools = self.block_size, self.pools
        tokens = len(pools) * sum([request.num_computed for request in running])
        tail = self._num_held * size - tokens
        shared = sum(pool.num_shared for pool in pools) * size
        behind = sum(
            self._behind(group, window, running) for group, window in enumerate(self._windows) if window is not None
        )
        live = sum(pool.num_referenced for pool in pools) * size - shared - tail - behind
        assert tail >= 0, f"{tail} tail slots"
        assert live >= 0, f"{live} live slots"
        return KVLedger(
            live=live,
            behind=behind,
            shared=shared,
            tail=tail,
            cached=sum(pool.num_cached for pool in pools) * size,
            free=sum(pool.num_free for pool in pools) * size,
            null=len(pools) * size,
            tokens=tokens,
            contiguous=max_model_len * len(pools) * len(running),
        )

    def _behind(self, group: int, window: int, running: Sequence[Request]) -> int:
        """Slots of one group with tokens of one request that its next token, and so no later one, sees."""
        size, pool = self.block_size, self.pools[group]
        if not pool.num_shared:  # every step asks: no walk over the tables where there is nothing to find in them
            return sum([max(0, request.num_computed - window + 1) for request in running])
        total = 0
        for request in running:
            unseen = max(
                0, request.num_computed - window + 1
            )  # the next one sees the window's tokens, itself among them
            for i in range(-(-unseen // size)):
                if pool.references(request.block_ids[group][i]) == 1:
                    total += min(size, unseen - i * size)
        return total

    def check(self, running: Sequence[Request]) -> None:
        """Assert I-POOL and I-OWN for every group, and that every table covers what is computed."""
        assert self._num_held == sum(len(table) for request in running for table in request.block_ids)
        for group, (pool, index) in enumerate(zip(self.pools, self.indexes, strict=True)):
            pool.check(request.block_ids[group] for request in running)
            index.check()
            for block in range(pool.num_blocks):
                assert pool.is_sealed(block) == (block in index), f"block {block}: sealed or indexed, but not both"
            for request in running:
                table = request.block_ids[group]
                assert len(table) * self.block_size >= request.num_computed, f"{request.id!r} lacks blocks"
                assert NULL_BLOCK not in table
                for i, block in enumerate(table):
                    full = (i + 1) * self.block_size <= request.num_computed
                    assert full or pool.is_writable(block), f"{request.id!r} may not write to block {block}"
