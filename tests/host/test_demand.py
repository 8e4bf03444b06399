"""Blocks that contexts take, beside counting them place by place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpaged.demand import KVDemand, spanned


@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_blocks_that_tokens_in_a_row_touch(block_size: int) -> None:
    for count in range(1, 40):
        touched = [len({i // block_size for i in range(first, first + count)}) for first in range(block_size)]
        assert spanned(count, block_size) == max(touched)


def test_a_window_bounds_what_is_held() -> None:
    demand = KVDemand(windows=(4096,), block_size=16, chunk=1)
    assert [demand.blocks(tokens) for tokens in (0, 1, 16, 17, 4096, 4097, 20_000, 10**6)] == [
        *(0, 1, 1, 2, 256, 257, 257, 257)
    ]  # ceil(4096 / 16) + 1
    assert KVDemand(windows=(4096,), block_size=16, chunk=512).blocks(20_000) == 289
    hybrid = KVDemand(windows=(128, None), block_size=16, chunk=1)
    assert hybrid.blocks(20_000) == 9 + 1250


@settings(max_examples=200, deadline=None)
@given(
    windows=st.lists(st.sampled_from([None, 1, 3, 8, 20]), min_size=1, max_size=3),
    block_size=st.sampled_from([1, 4, 16]),
    chunk=st.integers(1, 24),
    num_blocks=st.integers(0, 40),
)
def test_the_longest_context_is_the_last_that_fits(
    windows: list[int | None], block_size: int, chunk: int, num_blocks: int
) -> None:
    demand = KVDemand(windows=tuple(windows), block_size=block_size, chunk=chunk)
    fits = [demand.blocks(tokens) <= num_blocks for tokens in range(101)]
    assert fits == sorted(fits, reverse=True), "a longer context takes no fewer blocks"
    assert demand.longest(num_blocks, at_most=100) == sum(fits) - 1


def test_new_blocks_are_those_beyond_what_a_window_gives_up() -> None:
    demand = KVDemand(windows=(9, None), block_size=4, chunk=8)
    assert demand.most(9) == 5
    assert demand.missing(2, (1, 6)) == 2 + 2
    assert demand.missing(10, (1, 6)) == 4 + 10
    assert demand.missing(10, (5, 6)) == 0 + 10
