"""What sampled blocks are said to have done, beside a recording of everything that all blocks did."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import cycle, pairwise
from typing import Any, NamedTuple

import pytest
from host_model import ShadowModel, make_request
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpaged.blocks import BlockPool
from jaxpaged.buckets import BucketTable
from jaxpaged.residency import BOUNDS_S, BlockResidency, ResidencyCounts, Spans
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig

BLOCK = 4
LONGEST = 30
Act = Callable[..., Any]


class Event(NamedTuple):
    kind: str  # "allocated", "touched", "evicted" or "cleared"
    at: float
    block: int = -1


class Recording:
    """Every event of every block, seen at the pool's own doors."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[Event] = []

    def watch(self, pool: BlockPool) -> None:
        allocate, share, evict = pool.allocate, pool.share, pool._on_evict
        assert evict is not None

        def recorded(kind: str, act: Act) -> Act:
            def seen(argument: int) -> Any:
                found = act(argument)
                for block in found if kind == "allocated" else [argument]:
                    self.events.append(Event(kind, self.now, block))
                return found

            return seen

        pool.allocate = recorded("allocated", allocate)
        pool.share = recorded("touched", share)
        pool._on_evict = recorded("evicted", evict)

    def counts(self, skips: Iterator[int]) -> ResidencyCounts:
        """What became of each sampled allocation, found by reading on from it in the recording."""
        found, number, wanted = ResidencyCounts(), 0, next(skips)
        for place, event in enumerate(self.events):
            if event.kind == "allocated":
                if number == wanted:
                    wanted += 1 + next(skips)
                    self._follow(event, self.events[place + 1 :], found)
                number += 1
        return found

    def _follow(self, born: Event, later: list[Event], found: ResidencyCounts) -> None:
        touches = [born.at]
        for event in later:
            if event.kind == "cleared":
                break
            if event.block != born.block:
                continue
            if event.kind == "touched":
                touches.append(event.at)
                continue
            if event.kind == "evicted":
                count(found.lifetime, event.at - born.at)
                count(found.idle, event.at - touches[-1])
            break
        for first, second in pairwise(touches):
            count(found.gap, second - first)


def count(spans: Spans, seconds: float) -> None:
    spans.counts[sum(seconds > bound for bound in BOUNDS_S)] += 1
    spans.total_s += seconds


def make(
    residency: BlockResidency | None, *, groups: int = 1, blocks: int = 7, prefix_caching: bool = True
) -> tuple[Scheduler, ShadowModel]:
    config = SchedulerConfig(
        max_rows=2, max_step_tokens=16, max_model_len=LONGEST, chunk_align=4, prefix_caching=prefix_caching
    )
    windows = (None, 5)[:groups]
    pool = KVPoolSpec(block_size=BLOCK, num_blocks=1 + (blocks - 1) * groups, windows=windows)
    buckets = BucketTable.build(max_rows=2, max_step_tokens=16, min_rows=2, min_step_tokens=8)
    scheduler = Scheduler(config, pool, buckets, block_listener=residency)
    return scheduler, ShadowModel(scheduler, max_model_len=LONGEST)


def step(scheduler: Scheduler, model: ShadowModel) -> None:
    plan = scheduler.plan()
    assert plan is not None
    tokens = model.execute(plan)
    scheduler.launch(plan)
    scheduler.commit(plan, tokens)


def serve(scheduler: Scheduler, model: ShadowModel, name: str, prompt: list[int], *, max_tokens: int = 1) -> None:
    scheduler.submit(make_request(name, prompt, max_tokens=max_tokens))
    while scheduler.has_work:
        step(scheduler, model)


def shuffle(recording: Recording, scheduler: Scheduler, model: ShadowModel, draw: random.Random, rounds: int) -> None:
    """Requests that share beginnings, preemptions, aborts, resets of the cache; time goes on between what happens."""
    beginnings = [[draw.randrange(7) for _ in range(16)] for _ in range(3)]
    for i in range(rounds):
        recording.now += draw.randint(1, 64) * 2.0 ** draw.randint(-16, 5)  # sums of such numbers are exact
        match draw.choices(["submit", "step", "abort", "reset"], [5, 12, 1, 0.4])[0]:
            case "submit":
                prompt = [*draw.choice(beginnings)[: draw.randint(1, 16)], draw.randrange(7)]
                scheduler.submit(make_request(f"r{i}", prompt, max_tokens=min(draw.randint(1, 12), 25 - len(prompt))))
            case "step" if scheduler.has_work:
                step(scheduler, model)
            case "abort":
                scheduler.abort(f"r{draw.randrange(i + 1)}")
            case "reset":
                recording.events.append(Event("cleared", recording.now))
                scheduler.reset_prefix_cache()
            case _:
                pass


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), groups=st.integers(1, 2), skips=st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_the_figures_are_those_of_a_recording(seed: int, groups: int, skips: list[int]) -> None:
    recording, skip = Recording(), cycle(skips)
    residency = BlockResidency(lambda: next(skip), clock=lambda: recording.now)
    scheduler, model = make(residency, groups=groups)
    recording.watch(scheduler._cache.pool)
    shuffle(recording, scheduler, model, random.Random(seed), rounds=150)
    assert residency.counts == recording.counts(cycle(skips))


def test_a_schedule_of_that_test_meets_everything() -> None:
    recording = Recording()
    residency = BlockResidency.every(1, clock=lambda: recording.now)
    scheduler, model = make(residency, groups=2)
    recording.watch(scheduler._cache.pool)
    shuffle(recording, scheduler, model, random.Random(0), rounds=1500)
    counts = residency.counts
    assert counts == recording.counts(cycle([0]))
    assert min(sum(counts.lifetime.counts), sum(counts.gap.counts)) > 100
    assert sum(counts.lifetime.counts) == sum(counts.idle.counts)
    assert {event.kind for event in recording.events} == {"allocated", "touched", "evicted", "cleared"}
    assert scheduler.num_preemptions > 0


def test_gaps_and_idle_time_sum_to_the_lifetime() -> None:
    now = [0.0]
    residency = BlockResidency.every(1, clock=lambda: now[0])
    scheduler, model = make(residency, blocks=3)
    for at, name in ((0.0, "a"), (0.25, "b"), (8.0, "c")):  # computed once, hit twice
        now[0] = at
        serve(scheduler, model, name, [1, 2, 3, 4, 5])
    now[0] = 50.0
    serve(scheduler, model, "d", [6, 6, 6, 6, 6])  # takes its place
    found = residency.counts
    assert (found.gap.total_s, found.idle.total_s, found.lifetime.total_s) == (8.0, 42.0, 50.0)
    seen = {name: [BOUNDS_S[i] for i, n in enumerate(getattr(found, name).counts) if n] for name in found.__slots__}
    assert seen == {"gap": [0.5, 10.0], "idle": [60.0], "lifetime": [60.0]}


def test_a_block_without_cached_content_is_never_evicted() -> None:
    for options in ({"prefix_caching": False}, {"prefix_caching": True}):
        residency = BlockResidency.every(1)
        scheduler, model = make(residency, blocks=3, **options)
        for i in range(5):
            serve(scheduler, model, f"r{i}", [i, i])  # never fills a block
        assert residency.counts == ResidencyCounts()


def test_a_reset_is_no_eviction() -> None:
    residency = BlockResidency.every(1)
    scheduler, model = make(residency)
    serve(scheduler, model, "a", [1, 2, 3, 4, 5])
    scheduler.reset_prefix_cache()
    for i in range(6):
        serve(scheduler, model, f"r{i}", [i])
    assert residency.counts == ResidencyCounts()


def test_a_span_above_all_bounds_is_counted_last() -> None:
    spans = Spans()
    for seconds in (0.0, 0.001, 0.0011, 1800.0, 1800.1):
        spans.add(seconds)
    assert (spans.counts[0], spans.counts[1], spans.counts[-2], spans.counts[-1]) == (2, 1, 1, 1)
    assert sum(spans.counts) == 5


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_a_share_of_the_allocations_is_sampled_however_they_come(share: float) -> None:
    """Each one by itself: the number is within five standard deviations of a binomial's mean."""
    for size in (1, 3, 64):
        asked = [0]

        def clock(asked: list[int] = asked) -> float:
            asked[0] += 1
            return 0.0

        residency, total = BlockResidency.every(share, seed=7, clock=clock), 19_200
        for first in range(0, total, size):
            residency.allocated(range(first, first + size))
        sampled = len(residency._samples)
        assert abs(sampled - share * total) <= 5 * (share * (1 - share) * total) ** 0.5
        assert asked[0] <= sampled  # nobody asks for the time where nothing is sampled
