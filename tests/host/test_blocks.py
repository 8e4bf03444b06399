"""BlockPool: literal lives of a few blocks."""

from __future__ import annotations

import pytest

from jaxpaged.blocks import BlockPool


def counts(pool: BlockPool) -> tuple[int, int, int, int]:
    return pool.num_free, pool.num_cached, pool.num_referenced, pool.num_shared


def test_block_0_is_never_given_out() -> None:
    pool = BlockPool(4)
    assert pool.can_allocate(3)
    assert not pool.can_allocate(4)
    assert pool.allocate(3) == [1, 2, 3]
    assert counts(pool) == (0, 0, 3, 0)
    with pytest.raises(AssertionError, match="1 blocks asked, 0 available"):
        pool.allocate(1)
    pool.check([[1, 2], [3]])


def test_a_released_block_is_free_and_reused_first() -> None:
    pool = BlockPool(5)
    a, b = pool.allocate(2)
    pool.release(a)
    assert counts(pool) == (3, 0, 1, 0)
    assert pool.allocate(1) == [a]
    pool.check([[a], [b]])


def test_a_sealed_block_is_cached_shared_and_evicted() -> None:
    evicted: list[int] = []
    pool = BlockPool(4, on_evict=evicted.append)
    a, b = pool.allocate(2)
    assert pool.is_writable(a)
    pool.seal(a)
    pool.seal(b)
    assert not pool.is_writable(a)
    pool.share(a)
    assert counts(pool) == (1, 0, 2, 1)
    pool.check([[a, b], [a]])
    for block in (b, a, a):
        pool.release(block)
    assert counts(pool) == (1, 2, 0, 0)
    pool.share(b)  # back from the cache: a is now the oldest there
    assert counts(pool) == (1, 1, 1, 0)
    assert pool.allocate(2) == [3, a]
    assert evicted == [a]
    pool.check([[b], [3, a]])


def test_the_least_recently_released_is_evicted_first() -> None:
    evicted: list[int] = []
    pool = BlockPool(4, on_evict=evicted.append)
    for block in pool.allocate(3):
        pool.seal(block)
    for block in (2, 3, 1):
        pool.release(block)
    pool.allocate(3)
    assert evicted == [2, 3, 1]


def test_unseal_all_keeps_blocks_in_use() -> None:
    evicted: list[int] = []
    pool = BlockPool(4, on_evict=evicted.append)
    a, b = pool.allocate(2)
    pool.seal(a)
    pool.seal(b)
    pool.release(b)
    pool.unseal_all()
    assert sorted(evicted) == [a, b]
    assert counts(pool) == (2, 0, 1, 0)
    pool.check([[a]])
    pool.release(a)
    assert counts(pool) == (3, 0, 0, 0)


def test_a_block_with_two_holders_is_written_by_neither() -> None:
    pool = BlockPool(4)
    (a,) = pool.allocate(1)
    pool.fork(a)
    assert (pool.references(a), pool.num_shared, pool.num_open) == (2, 1, 1)
    assert not pool.is_writable(a)
    pool.check([[a], [a]])
    pool.release(a)
    assert (pool.num_shared, pool.num_open) == (0, 0)
    assert pool.is_writable(a)
    pool.fork(a)
    pool.seal(a)  # full by now, whoever filled it before the fork
    assert (pool.num_shared, pool.num_open) == (1, 0)
    pool.check([[a], [a]])
    pool.unseal_all()
    assert (pool.num_shared, pool.num_open) == (1, 1)
    pool.check([[a], [a]])
    pool.release(a)
    pool.release(a)
    assert counts(pool) == (3, 0, 0, 0)
    pool.check([])


def test_our_own_mistakes_are_caught() -> None:
    pool = BlockPool(3)
    (a,) = pool.allocate(1)
    with pytest.raises(AssertionError, match="not sealed"):
        pool.share(a)
    with pytest.raises(AssertionError, match="in no table"):
        pool.fork(2)
    with pytest.raises(AssertionError, match="belongs to nobody"):
        pool.fork(0)
    with pytest.raises(AssertionError, match="nobody holds it"):
        pool.seal(2)
    pool.seal(a)
    with pytest.raises(AssertionError, match="sealed twice"):
        pool.seal(a)
    pool.release(a)
    with pytest.raises(AssertionError, match="nobody holds it"):
        pool.release(a)
    with pytest.raises(AssertionError, match="belongs to nobody"):
        pool.release(0)
    with pytest.raises(AssertionError, match="at least 2"):
        BlockPool(1)


def test_check_sees_a_wrong_table() -> None:
    pool = BlockPool(4)
    a, b = pool.allocate(2)
    pool.check([[a, b]])
    for tables in ([[a]], [[a, b], [b]], [[a, b, 3]]):
        with pytest.raises(AssertionError):
            pool.check(tables)
