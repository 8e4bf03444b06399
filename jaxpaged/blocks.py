"""The blocks of one KV pool: who holds which, as integers and reference counts. [host half: no jax]

Owns the state of every block and nothing of its content. A block is in exactly one state:

- null: block 0; padding writes there, nobody reads it, nobody is given it
- free: holds nothing of value
- referenced: in the block tables of one or more requests; only one that has it alone may write to it
- cached: in no table, but sealed (its content has a key in the prefix index), so it may be taken up again until evicted

All operations are O(1) a block.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

NULL_BLOCK = 0


class BlockPool:
    """Block ids 1..num_blocks-1 and their reference counts. Questions change nothing; actions assert the question.

    on_evict: told the id of a cached block whose content is given up, before the block is given out again.
    """

    def __init__(self, num_blocks: int, *, on_evict: Callable[[int], object] | None = None) -> None:
        assert num_blocks >= 2, f"{num_blocks} blocks: one is the null block, so at least 2 are needed"
        self.num_blocks = num_blocks
        self._on_evict = on_evict
        self._refs = [0] * num_blocks
        self._sealed = bytearray(num_blocks)
        self._free = list(range(num_blocks - 1, NULL_BLOCK, -1))  # a stack: the lowest id is on top
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently released first
        self._num_shared = 0
        self.num_open = 0
        """Of the blocks in more than one table, those that are not sealed: those with room for a token among them."""

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def cached(self) -> tuple[int, ...]:
        """The cached blocks, least recently released first."""
        return tuple(self._cached)

    @property
    def num_available(self) -> int:
        """Blocks that can be given out: free ones, then cached ones by eviction."""
        return len(self._free) + len(self._cached)

    @property
    def num_referenced(self) -> int:
        return self.num_blocks - 1 - self.num_available

    @property
    def num_shared(self) -> int:
        """Blocks that are in more than one table."""
        return self._num_shared

    def references(self, block: int) -> int:
        """How many tables hold `block`."""
        return self._refs[block]

    def is_sealed(self, block: int) -> bool:
        """Whether the block's content is in the prefix index: full, and never to be written again."""
        return bool(self._sealed[block])

    def is_writable(self, block: int) -> bool:
        """Whether the one table that holds `block` may write to it."""
        return block != NULL_BLOCK and self._refs[block] == 1 and not self._sealed[block]

    def can_allocate(self, count: int) -> bool:
        return 0 <= count <= self.num_available

    def allocate(self, count: int) -> list[int]:
        """Give out `count` blocks, each with one reference; evicts the least recently used cached ones if need be."""
        assert self.can_allocate(count), f"{count} blocks asked, {self.num_available} available"
        blocks = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        for block in blocks:
            assert self._refs[block] == 0, f"free block {block} has {self._refs[block]} references"
            assert not self._sealed[block], f"free block {block} is sealed"
            self._refs[block] = 1
        return blocks

    def share(self, block: int) -> None:
        """Add a reference to a sealed block, referenced or cached."""
        assert self._sealed[block], f"block {block} is not sealed: its holder may still write to it"
        if self._refs[block] == 0:
            del self._cached[block]
            self._refs[block] = 1
        else:
            self.fork(block)

    def fork(self, block: int) -> None:
        """Add a reference to a block of some table, sealed or not: from now on none of its holders may write to it."""
        refs = self._refs[block]
        assert block != NULL_BLOCK, "the null block belongs to nobody"
        assert refs > 0, f"block {block} is in no table that could be forked"
        if refs == 1:
            self._num_shared += 1
            self.num_open += not self._sealed[block]
        self._refs[block] = refs + 1

    def release(self, block: int) -> None:
        """Take one reference away; the last one makes the block cached if it is sealed, else free."""
        refs = self._refs[block]
        assert block != NULL_BLOCK, "the null block belongs to nobody"
        assert refs > 0, f"block {block} is released, but nobody holds it"
        self._refs[block] = refs - 1
        if refs == 2:
            self._num_shared -= 1
            self.num_open -= not self._sealed[block]
        elif refs == 1:
            if self._sealed[block]:
                self._cached[block] = None
            else:
                self._free.append(block)

    def seal(self, block: int) -> None:
        """Note that the block is full and known to the prefix index."""
        refs = self._refs[block]
        assert refs > 0, f"block {block} is sealed, but nobody holds it"
        assert not self._sealed[block], f"block {block} is sealed twice"
        self._sealed[block] = 1
        self.num_open -= refs > 1

    def unseal_all(self) -> None:
        """Give up every cached content: cached blocks become free, referenced ones stay with their holders."""
        while self._cached:
            self._free.append(self._evict())
        for block in range(self.num_blocks):
            if self._sealed[block]:
                self._give_up(block)

    def check(self, tables: Iterable[Iterable[int]]) -> None:
        """Assert I-POOL and I-OWN: every reference count is re-derived from the `tables` of all requests."""
        refs = Counter(block for table in tables for block in table)
        states = Counter([NULL_BLOCK, *self._free, *self._cached, *refs])
        assert len(states) == self.num_blocks, f"{self.num_blocks - len(states)} blocks are in no state"
        doubled = [block for block, count in states.items() if count != 1]
        assert not doubled, f"blocks {doubled} are in two states"
        assert 1 + len(self._free) + len(self._cached) + len(refs) == self.num_blocks
        for block in range(self.num_blocks):
            assert self._refs[block] == refs[block], f"block {block}: {self._refs[block]} != {refs[block]} references"
        assert all(self._sealed[block] for block in self._cached), "a cached block is not sealed"
        assert not any(self._sealed[block] for block in self._free), "a free block is sealed"
        shared = [block for block, count in refs.items() if count > 1]
        assert self._num_shared == len(shared)
        assert self.num_open == sum(not self._sealed[block] for block in shared)

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        self._give_up(block)
        return block

    def _give_up(self, block: int) -> None:
        assert self._sealed[block], f"block {block} has no content to give up"
        self._sealed[block] = 0
        self.num_open += self._refs[block] > 1
        if self._on_evict is not None:
            self._on_evict(block)
