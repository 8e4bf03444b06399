"""Where every token place of the KV pool is, by what holds it. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxpaged.kvcache import KVCache
from jaxpaged.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class KVLedger:
    """Every slot (token place of a block) of the pool, in exactly one class; `total` is the sum of the classes.

    live: holds a token of one request. behind: likewise, but no later token of that request sees it, since its group
    has a window. shared: holds a token of several requests, counted once. tail: held by a request but
    without a token yet. cached: holds a token of nobody, kept for prefix hits. free, null: hold nothing.
    Beside the classes, `tokens`: of all running requests, those that each group holds, shared ones as often as they are
    shared; and `contiguous`: slots that a max-length reservation in each group for each running request would hold.
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

    @classmethod
    def of(cls, cache: KVCache, running: Sequence[Request], *, max_model_len: int) -> KVLedger:
        """The ledger now; O(running requests), and O(their blocks behind it) in groups with a window."""
        size, pool, groups = cache.block_size, cache.pool, cache.num_groups
        tokens = groups * sum([request.num_computed for request in running]) - cache.num_null * size
        slack, repeated = _shared_slack(cache, running) if pool.num_open else (0, 0)
        tail = cache.num_held * size - tokens - repeated
        shared = pool.num_shared * size - slack
        behind = sum(_behind(cache, group, window, running) for group, window in cache.windowed)
        live = pool.num_referenced * size - shared - tail - behind
        assert tail >= 0, f"{tail} tail slots"
        assert live >= 0, f"{live} live slots"
        return cls(
            live=live,
            behind=behind,
            shared=shared,
            tail=tail,
            cached=pool.num_cached * size,
            free=pool.num_free * size,
            null=size,
            tokens=tokens,
            contiguous=max_model_len * groups * len(running),
        )


def _shared_slack(cache: KVCache, running: Sequence[Request]) -> tuple[int, int]:
    """Slots without a token in blocks that several requests hold, each slot counted once; and how often they are held
    beyond that."""
    size, pool = cache.block_size, cache.pool
    slack: dict[int, int] = {}  # of each such block
    for request in running:
        last, filled = divmod(request.num_computed, size)
        if filled:
            shared = [table[last] for table in request.block_ids if pool.references(table[last]) > 1]
            slack.update(dict.fromkeys(shared, size - filled))
    return sum(slack.values()), sum(free * (pool.references(block) - 1) for block, free in slack.items())


def _behind(cache: KVCache, group: int, window: int, running: Sequence[Request]) -> int:
    """Slots of one group with tokens of one request that its next token, and so no later one, sees."""
    size, pool, total = cache.block_size, cache.pool, 0
    for request in running:
        unseen, start = request.num_computed - window + 1, request.table_starts[group]
        if not pool.num_shared:  # every step asks: no walk over the tables where there is nothing to find in them
            total += max(0, unseen - start * size)
            continue
        for i in range(start, cache.blocks_for(max(0, unseen))):
            if pool.references(request.block_ids[group][i]) == 1:
                total += min(size, unseen - i * size)
    return total
