"""The block pool block by block, for people to look at. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from jaxpaged.blocks import NULL_BLOCK
from jaxpaged.kvcache import KVCache
from jaxpaged.request import Request


class BlockClass(IntEnum):
    """What a block is to the pool; each is in exactly one class."""

    FREE = 0
    CACHED = 1  # in no table, kept for prefix hits
    LIVE = 2  # full, of one request; in a group with a window the next token may see none of it
    SHARED = 3  # of several requests
    TAIL = 4  # of one request, with places that hold no token yet
    NULL = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMap:
    """One entry per block of the pool, whichever KV group holds it. classes: `BlockClass` values.

    owners: index into `requests`, -1 for none; the oldest holder of a shared block. requests: the running ones, oldest
    first: id, tokens known, tokens computed, blocks held in all groups.
    """

    classes: bytes
    owners: tuple[int, ...]
    requests: tuple[tuple[str, int, int, int], ...]

    @classmethod
    def of(cls, cache: KVCache, running: Sequence[Request]) -> BlockMap:
        """The map as it is now. O(blocks)."""
        pool, size = cache.pool, cache.block_size
        classes, owners = bytearray(pool.num_blocks), [-1] * pool.num_blocks
        classes[NULL_BLOCK] = BlockClass.NULL
        for block in pool.cached:
            classes[block] = BlockClass.CACHED
        requests: list[tuple[str, int, int, int]] = []
        for owner, request in enumerate(running):
            full, held = request.num_computed // size, 0
            for table, start in zip(request.block_ids, request.table_starts, strict=True):
                held += len(table) - start
                for i, block in enumerate(table[start:], start):
                    if pool.references(block) > 1:
                        classes[block] = BlockClass.SHARED
                    else:
                        classes[block] = BlockClass.LIVE if i < full else BlockClass.TAIL
                    if owners[block] < 0:
                        owners[block] = owner
            requests.append((request.id, request.num_tokens, request.num_computed, held))
        return cls(classes=bytes(classes), owners=tuple(owners), requests=tuple(requests))
