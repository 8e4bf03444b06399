"""The map of the block pool says of every block what the ledger counts."""

from __future__ import annotations

from collections import Counter

from host_model import make_request

from jaxpaged.blockmap import BlockClass, BlockMap
from jaxpaged.kv_pool_spec import KVPoolSpec
from jaxpaged.kvcache import KVCache
from jaxpaged.ledger import KVLedger
from jaxpaged.request import Request

FREE, CACHED, LIVE, SHARED, TAIL, NULL = BlockClass


def admitted(cache: KVCache, name: str, prompt: list[int], *, computed: int) -> Request:
    """A running request whose first `computed` tokens are in the pool."""
    request = make_request(name, prompt)
    cache.admit(request, cache.match(request))
    start = request.num_computed
    cache.grow(request, computed)
    request.num_computed = computed
    cache.publish(request, start, computed)
    return request


def classes(found: BlockMap) -> list[int]:
    return list(found.classes)


def test_a_map_of_each_class() -> None:
    cache = KVCache(KVPoolSpec(block_size=4, num_blocks=8), chunk=16, prefix_caching=True)
    first = admitted(cache, "first", [1, 2, 3, 4, 5, 6, 0, 1, 2, 3], computed=10)  # blocks 1, 2 and half of 3
    second = admitted(cache, "second", [1, 2, 3, 4, 6, 6], computed=5)  # shares block 1, begins 4
    found = BlockMap.of(cache, [first, second])
    assert classes(found) == [NULL, SHARED, LIVE, TAIL, TAIL, FREE, FREE, FREE]
    assert found.owners == (-1, 0, 0, 0, 1, -1, -1, -1)
    assert found.requests == (("first", 10, 10, 3), ("second", 6, 5, 2))
    cache.release(first)
    found = BlockMap.of(cache, [second])
    assert classes(found) == [NULL, LIVE, CACHED, FREE, TAIL, FREE, FREE, FREE]
    assert found.owners == (-1, 0, -1, -1, 0, -1, -1, -1)


def test_the_map_agrees_with_the_ledger() -> None:
    size = 4
    cache = KVCache(KVPoolSpec(block_size=size, num_blocks=32), chunk=16, prefix_caching=True)
    running = [admitted(cache, f"r{i}", [1, 2, 3, 4, 5, 6, 0, 1, i, i, i], computed=9 + i % 3) for i in range(5)]
    cache.release(running.pop(1))
    ledger, count = KVLedger.of(cache, running, max_model_len=64), Counter(classes(BlockMap.of(cache, running)))
    assert count[SHARED] * size == ledger.shared == 8
    assert count[CACHED] * size == ledger.cached
    assert count[FREE] * size == ledger.free
    assert count[NULL] * size == ledger.null == 4
    assert (count[LIVE] + count[TAIL]) * size == ledger.live + ledger.tail
    assert sum(count.values()) == 32
