"""Block tables and prefix hits of KV groups with windows, step by literal step and against a search of every length."""

from __future__ import annotations

import random
from collections import deque

import pytest
from host_model import ShadowModel, make_request, run_alone
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpaged.buckets import BucketTable
from jaxpaged.errors import CapacityError
from jaxpaged.kv_pool_spec import KVPoolSpec
from jaxpaged.kvcache import KVCache
from jaxpaged.plan import StepPlan
from jaxpaged.request import Request
from jaxpaged.scheduler import Scheduler, SchedulerConfig

SIZE = 4
WINDOWS = st.lists(st.sampled_from([None, 1, 3, 4, 5, 9, 13]), min_size=1, max_size=3)


class Stand:
    """A scheduler over a shadow model, committed `ahead` steps after the launch."""

    def __init__(self, *windows: int | None, blocks: int = 40, tokens: int = 16, rows: int = 4, ahead: int = 0) -> None:
        config = SchedulerConfig(max_rows=rows, max_step_tokens=tokens, max_model_len=60, chunk_align=4)
        buckets = BucketTable.build(max_rows=rows, max_step_tokens=tokens, min_rows=min(2, rows), min_step_tokens=8)
        pool = KVPoolSpec(block_size=SIZE, num_blocks=blocks, windows=windows)
        self.scheduler = Scheduler(config, pool, buckets)
        self.cache = self.scheduler._cache
        self.model = ShadowModel(self.scheduler, max_model_len=60)
        self.ahead = ahead
        self.flying: deque[tuple[StepPlan, list[int]]] = deque()

    def submit(self, name: str, prompt: list[int], *, max_tokens: int = 1) -> Request:
        request = make_request(name, prompt, max_tokens=max_tokens)
        self.scheduler.submit(request)
        return request

    def launch(self) -> bool:
        plan = self.scheduler.plan()
        if plan is None:
            return False
        tokens = self.model.execute(plan)
        self.scheduler.launch(plan)
        self.flying.append((plan, tokens))
        self.scheduler.check()
        self.model.poison()
        return True

    def land(self) -> None:
        self.scheduler.commit(*self.flying.popleft())
        self.scheduler.check()
        self.model.poison()

    def step(self) -> None:
        launched = self.launch()
        while len(self.flying) > (self.ahead if launched else 0):
            self.land()

    def finish(self) -> None:
        while self.scheduler.has_work:
            self.step()


def test_blocks_behind_the_window_are_given_up() -> None:
    stand = Stand(6, None, tokens=8)
    request = stand.submit("a", list(range(7)) * 3, max_tokens=8)
    held = []
    while stand.scheduler.has_work:
        stand.step()
        if request.block_ids:
            held.append((request.num_computed, [*request.table_starts], [sum(map(bool, t)) for t in request.block_ids]))
    # a chunk of eight tokens at place n needs those from n - 5 on; what it leaves is given up when it is committed
    assert held == [
        (8, [0, 0], [2, 2]),
        (16, [2, 0], [2, 4]),
        (21, [4, 0], [2, 6]),
        (22, [4, 0], [2, 6]),
        (23, [4, 0], [2, 6]),
        (24, [4, 0], [2, 6]),
        (25, [4, 0], [3, 7]),  # a block more for place 24, whose token sees those from 19 on, in block 4
        (26, [4, 0], [3, 7]),
        (27, [4, 0], [3, 7]),
    ]


def test_one_pool_serves_whichever_group_needs_it() -> None:
    """48 tokens take 12 blocks of the full group and 4 of the window's; in halves of 8 they would end at 32."""
    stand = Stand(5, None, blocks=17, tokens=8)
    request = stand.submit("a", list(range(7)) * 6, max_tokens=7)
    stand.finish()
    assert request.tokens == [*request.prompt, *run_alone(request)[0]]
    with pytest.raises(CapacityError, match=r"need 17 KV blocks of 4 tokens, and the pool has 16.*together to 49 "):
        stand.submit("b", list(range(7)) * 6, max_tokens=8)


def test_a_hit_needs_only_the_window_before_its_end() -> None:
    stand = Stand(6, None)
    first = stand.submit("a", [1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3])
    stand.finish()
    index = stand.cache.indexes[0]
    for i in (0, 1):  # the first two blocks of the group with the window are evicted
        evict(stand.cache, index._blocks[first.block_keys[i]])
    second = stand.submit("b", [*first.prompt, 4])
    stand.step()
    assert (second.num_cached, second.state.name) == (16, "FINISHED")
    evict(stand.cache, index._blocks[first.block_keys[2]])  # 11 and 12 to 15 are what the token at 16 sees
    third = stand.submit("c", [*first.prompt, 5])
    stand.step()
    assert third.num_cached == 0


def evict(cache: KVCache, block: int) -> None:
    """Give up a cached block as if its place had been needed."""
    pool = cache.pool
    del pool._cached[block]
    pool._give_up(block)
    pool._free.append(block)


@settings(max_examples=150, deadline=None)
@given(windows=WINDOWS, seed=st.integers(0, 2**32), lost=st.floats(0, 0.6))
def test_the_hit_is_the_longest_that_every_group_can_serve(windows: list[int | None], seed: int, lost: float) -> None:
    draw = random.Random(seed)
    stand = Stand(*windows, blocks=60)
    prompt = [draw.randrange(7) for _ in range(draw.randint(1, 40))]
    first = stand.submit("a", prompt)
    stand.finish()
    for block in stand.cache.pool.cached:
        if draw.random() < lost:
            evict(stand.cache, block)
    request = make_request("b", [*prompt, 1], max_tokens=1)
    keys, found = first.block_keys, stand.cache.match(request)

    def serves(count: int) -> bool:
        """Whether the token after `count` blocks finds all that it sees, looked for token by token."""
        for index, window in zip(stand.cache.indexes, windows, strict=True):
            oldest = 0 if window is None else max(0, count * SIZE - window + 1)
            if not all(index.knows(keys[place // SIZE]) for place in range(oldest, count * SIZE)):
                return False
        return True

    assert found.num_blocks == max(count for count in range(len(prompt) // SIZE + 1) if serves(count))
    for index, window, blocks in zip(stand.cache.indexes, windows, found.blocks, strict=True):
        oldest = 0 if window is None else max(0, found.num_blocks * SIZE - window + 1) // SIZE
        assert list(blocks) == [index._blocks[key] for key in keys[oldest : found.num_blocks]]
    request = stand.submit("b", [*prompt, 1])
    stand.finish()
    assert request.tokens == [*request.prompt, *run_alone(request)[0]]


def test_each_block_is_looked_for_once() -> None:
    """The worst case: every second block of the window's group is gone, and no hit is left."""
    stand = Stand(9, None, blocks=60)
    first = stand.submit("a", [i % 7 for i in range(56)])
    stand.finish()
    index = stand.cache.indexes[0]
    for key in first.block_keys[::2]:
        evict(stand.cache, index._blocks[key])
    asked: list[bytes] = []
    knows = index.knows
    index.knows = lambda key: asked.append(key) or knows(key)  # pyright: ignore[reportAttributeAccessIssue]
    assert stand.cache.match(make_request("b", [*first.prompt, 1], max_tokens=1)).num_blocks == 0
    assert asked == first.block_keys[:14][::-1]


@pytest.mark.parametrize("ahead", [0, 1])
def test_what_a_chunk_leaves_behind_is_cached_all_the_same(ahead: int) -> None:
    """A chunk of 16 tokens moves on past a window of 5: its first blocks are held until the step that fills them is
    committed, and are found by who begins like it."""
    stand = Stand(5, None, ahead=ahead)
    first = stand.submit("a", [i * i % 7 for i in range(40)], max_tokens=4)
    stand.finish()
    second = stand.submit("b", [*first.prompt[:9], 6, 6])
    stand.finish()
    assert second.num_cached == 8
    assert second.tokens == [*second.prompt, *run_alone(second)[0]]


def test_who_lacks_room_takes_what_is_kept_for_the_cache() -> None:
    """With a step in flight the blocks that it fills are kept though they are behind the window already; then the next
    chunk needs them, and what was in them is not published when the step comes in."""
    stand = Stand(5, blocks=7, ahead=1)  # six blocks: a window of 5 and a chunk of 16 touch at most that many
    request = stand.submit("a", [i * i % 7 for i in range(40)], max_tokens=4)
    assert stand.launch()
    assert (request.num_computed, request.table_starts) == (16, [0])
    assert stand.launch()
    assert (request.num_computed, request.table_starts) == (32, [3])  # blocks 0 to 2, not committed, went for others
    stand.land()
    assert [stand.cache.indexes[0].knows(key) for key in request.block_keys[:5]] == [False, False, False, True, False]
    stand.finish()
    assert request.tokens == [*request.prompt, *run_alone(request)[0]]
    assert stand.scheduler.num_preemptions == 0


def test_a_request_preempted_in_flight_waits_for_its_results() -> None:
    """They are those of tables that it has no more: they must not publish the blocks of its new ones."""
    stand = Stand(None, blocks=9, tokens=8, rows=2)
    old = stand.submit("old", [1, 2, 3, 4], max_tokens=24)
    stand.step()
    young = stand.submit("young", [5] * 20)
    assert stand.launch()
    assert young.num_computed > 0
    stand.scheduler.roster.preempt(young)
    assert stand.launch()
    assert (young.num_computed, young.state.name) == (0, "WAITING")  # though there is room for it
    stand.land()
    assert stand.launch()
    assert young.num_computed > 0
    while stand.flying:
        stand.land()
    stand.finish()
    for request in (old, young):
        assert request.tokens == [*request.prompt, *run_alone(request)[0]]
